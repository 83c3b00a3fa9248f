"""What can go wrong with the Kubernetes API."""

from __future__ import annotations

from pymicro.base.errors import PymicroError

__all__ = ["KubeError"]


class KubeError(PymicroError):
    """The API server refused, or could not be asked.

    The text is for people: what was asked of which server, and what happened. For a 403 it
    also names the account and the missing RBAC rule.

    Attributes:
        status: The HTTP status; 0 if no answer came (connection, TLS, time, credentials).
        reason: The server's own word for it (`Forbidden`, `Expired`); may be empty.
        retry_after: For how many seconds the server asks us to stay away; None if it does not say.
        kind: A word for counting: `connection`, `timeout`, `malformed` …; by default the one for `status`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.kind = kind or _kind(status, reason)

    @property
    def expired(self) -> bool:
        """Whether the server no longer serves our version (or `continue` token): list again."""
        return self.kind == "expired"


# Servers before 1.17 say "Gone". A version that the server has not reached yet (etcd was
# restored from a backup) is as useless as one that it has forgotten.
_EXPIRED = frozenset({"Expired", "Gone", "ResourceVersionTooLarge"})

_KINDS = {401: "unauthorized", 403: "forbidden", 404: "missing", 410: "expired", 429: "throttled"}


def _kind(status: int, reason: str) -> str:
    if reason in _EXPIRED:
        return "expired"
    if status in _KINDS:
        return _KINDS[status]
    if status >= 500:
        return "server"
    return "refused" if status else "connection"
