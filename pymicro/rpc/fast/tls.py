"""What both ends of transport `fast` share of TLS, which the event loop speaks."""

from __future__ import annotations

from typing import Any

__all__ = ["SHUTDOWN", "speaks_http2"]

# Seconds in which what was written last, and the other end's farewell, must have gone through; the loop's own
# limit is 30 s. grpc-core says no farewell while somebody holds a call of the connection, and a stop would
# wait for it. What is written last is at most what the transport's buffer holds, some 100 KiB.
SHUTDOWN = 5.0


def speaks_http2(transport: Any) -> bool:
    """Whether the other end has agreed to speak HTTP/2 inside TLS; the loop does not insist on it."""
    found: str | None = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    return found == "h2"
