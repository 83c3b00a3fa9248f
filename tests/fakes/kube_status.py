"""Kubernetes' `Status` objects: how an API server says no."""

from __future__ import annotations

from typing import Any

__all__ = ["Refused", "status_object"]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def status_object(
    code: int,
    message: str = "",
    *,
    reason: str | None = None,
    details: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    retry_after: float | None = None,
) -> dict[str, Any]:
    """A failure as the API server words it; an unknown code has no reason."""
    known = REASONS.get(code, "") if reason is None else reason
    if retry_after is not None:
        details = {**(details or {}), "retryAfterSeconds": int(retry_after)}
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": metadata or {},
        "status": "Failure",
        "message": message or f"the fake API server was told to answer {code}",
        "reason": known,
        "code": code,
    }
    if details:
        status["details"] = details
    return status


class Refused(Exception):
    """A request is answered with this Status."""

    def __init__(self, code: int, message: str = "", **more: Any) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after: float | None = more.get("retry_after")
        self.status = status_object(code, message, **more)
