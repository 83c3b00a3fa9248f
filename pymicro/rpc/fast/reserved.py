"""Headers that are gRPC's and HTTP/2's own, and so no metadata."""

from __future__ import annotations

__all__ = ["NOT_METADATA"]

# Of either end. grpc-core leaves out those that it sends itself; those of HTTP/1.1's connections make a
# message malformed (RFC 9113, 8.2.2), as does a content-length that does not fit.
NOT_METADATA = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-message",
        "grpc-status",
        "grpc-timeout",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
