"""go-micro 1.x on the wire: its headers, and its errors, which are JSON in the status' text.

Facts from go-micro v1.18.0: `errors/errors.go`, `client/grpc/error.go`, `server/grpc/error.go`.
Plain functions over text and numbers; `serving/` decides which calls are answered in this way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import grpc

__all__ = ["CODEC", "FROM_SERVICE", "TIMEOUT", "ErrorJson", "dump_error", "load_error", "read_status"]

# Request headers. The name of the caller's service; empty if it has none.
FROM_SERVICE = "micro-from-service"
# The codec of request and response: grpc-core hides the real content-type from Python.
CODEC = "x-content-type"
# Nanoseconds, beside the standard grpc-timeout. Streams carry it too, but do not mean it.
TIMEOUT = "timeout"

_Code = grpc.StatusCode

# go-micro's own table comes first; the four after it are not in that table. go-micro's client
# retries 408 and 500 and nothing else (`client/retry.go`).
_TO_HTTP: dict[_Code, tuple[int, str]] = {
    _Code.INVALID_ARGUMENT: (400, "Bad Request"),
    _Code.UNAUTHENTICATED: (401, "Unauthorized"),
    _Code.PERMISSION_DENIED: (403, "Forbidden"),
    _Code.NOT_FOUND: (404, "Not Found"),
    _Code.DEADLINE_EXCEEDED: (408, "Request Timeout"),
    _Code.ALREADY_EXISTS: (409, "Conflict"),
    _Code.FAILED_PRECONDITION: (412, "Precondition Failed"),
    _Code.INTERNAL: (500, "Internal Server Error"),
    _Code.UNIMPLEMENTED: (501, "Not Implemented"),
    _Code.UNAVAILABLE: (503, "Service Unavailable"),
    # As google.rpc.Code maps them to HTTP (googleapis, google/rpc/code.proto).
    _Code.CANCELLED: (499, "Client Closed Request"),
    _Code.UNKNOWN: (500, "Internal Server Error"),
    _Code.RESOURCE_EXHAUSTED: (429, "Too Many Requests"),
    _Code.ABORTED: (409, "Conflict"),
    _Code.OUT_OF_RANGE: (400, "Bad Request"),
    _Code.DATA_LOSS: (500, "Internal Server Error"),
}
_FROM_HTTP: dict[int, _Code] = {
    http: code
    for code, (http, _) in reversed(_TO_HTTP.items())  # the first code of a number wins
} | {
    405: _Code.UNIMPLEMENTED,  # errors.MethodNotAllowed
    504: _Code.DEADLINE_EXCEEDED,
}

# All keys of go-micro's object. An object with other keys is not go-micro's.
_KEYS = frozenset({"id", "code", "detail", "status"})


@dataclass(frozen=True, slots=True)
class ErrorJson:
    """An error as a go-micro server describes it.

    Attributes:
        id: The part that failed, by convention `service` or `service.Method`; may be empty.
        code: An HTTP status, or another number that the handler chose; never 0.
        detail: The text for people.
    """

    id: str
    code: int
    detail: str

    def status(self, received: grpc.StatusCode) -> grpc.StatusCode:
        """The gRPC status that this error means.

        Args:
            received: The status it arrived with: a Go server sends UNKNOWN for every code
                that is not in its table. It wins if it says the same more exactly.
        """
        known = _TO_HTTP.get(received)
        if known is not None and known[0] == self.code and received is not _Code.UNKNOWN:
            return received
        return _FROM_HTTP.get(self.code, received)


def dump_error(service: str, code: grpc.StatusCode, detail: str) -> str:
    """The text of a status for a go-micro caller; ASCII, on one line.

    Args:
        service: The name under which this service is registered.
    """
    http, status = _TO_HTTP[code]
    return json.dumps(
        {"id": service, "code": http, "detail": detail, "status": status}, separators=(",", ":")
    )


def load_error(text: str) -> ErrorJson | None:
    """The error in the text of a status; None if there is none, as from any other server."""
    if not text.startswith("{"):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not found.keys() <= _KEYS:
        return None
    ident, code, detail = found.get("id", ""), found.get("code"), found.get("detail", "")
    # Go's decoder takes any number that fits an int32; a code above 0 makes it an error.
    if type(code) is not int or not 0 < code < 1 << 31:
        return None
    if not isinstance(ident, str) or not isinstance(detail, str):
        return None
    return ErrorJson(ident, code, detail)


def read_status(code: grpc.StatusCode, text: str) -> tuple[grpc.StatusCode, str, ErrorJson | None]:
    """The meaning of a received status: its code and text, and the error in it if a Go server sent it."""
    error = load_error(text)
    return (code, text, None) if error is None else (error.status(code), error.detail, error)
