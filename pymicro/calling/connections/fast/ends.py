"""How a call on a stream ended: from HTTP/2's words and grpc's trailers to a code and a text."""

from __future__ import annotations

import grpc

from pymicro.base.printable import excerpt
from pymicro_fast import Stream, error_name
from pymicro_fast.wire import read_text

__all__ = ["end_of", "why_no_grpc"]

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_INTERNAL = grpc.StatusCode.INTERNAL
_UNKNOWN = grpc.StatusCode.UNKNOWN
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# Errors of a stream, as grpc's PROTOCOL-HTTP2.md maps them.
_ERRORS = {
    7: grpc.StatusCode.UNAVAILABLE,  # REFUSED_STREAM
    8: grpc.StatusCode.CANCELLED,  # CANCEL
    11: _EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: grpc.StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
# Answers that are no gRPC, as grpc's http-grpc-status-mapping.md maps them.
_HTTP = {
    400: _INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


def end_of(stream: Stream, reason: object) -> tuple[grpc.StatusCode, str]:
    """Code and text of a stream that the peer has ended, or that is closed.

    Args:
        stream: The stream.
        reason: Why its connection was lost, if it was.
    """
    if stream.oversized:
        return (
            _EXHAUSTED,
            f"received metadata exceeds the limit of {stream.session.max_header_bytes} bytes",
        )
    status = stream.grpc_status
    if stream.ended and status >= 0:
        code = _CODES.get(status, _UNKNOWN)
        # As in grpc-core, OK has no text.
        return code, "" if code is grpc.StatusCode.OK else read_text(stream.message)
    strange = why_no_grpc(stream)
    if strange is not None and (stream.ended or stream.http_status != 200):
        return strange
    if stream.ended:
        if status == -2:
            return _UNKNOWN, "the peer ended the call with a grpc-status that is no number"
        return _UNKNOWN, "the peer ended the call without a grpc-status"
    if stream.error == -2:
        return grpc.StatusCode.UNAVAILABLE, f"the connection was lost: {reason}"
    name = error_name(stream.error)
    return _ERRORS.get(stream.error, _INTERNAL), f"the peer reset the stream: {name}"


def why_no_grpc(stream: Stream) -> tuple[grpc.StatusCode, str] | None:
    """Code and text of an answer that is not gRPC's, as a proxy in between may give it; else None."""
    if stream.http_status not in (0, 200):
        code = _HTTP.get(stream.http_status, _UNKNOWN)
        return code, f"Received http2 header with status: {stream.http_status}"
    if stream.http_status and not (stream.content_type or b"").startswith(b"application/grpc"):
        kind = (stream.content_type or b"").decode("latin-1")
        return _UNKNOWN, f"the peer's answer is no gRPC: its content-type is {excerpt(kind)}"
    return None
