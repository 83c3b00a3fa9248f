"""The transport `fast` of the serving end: HTTP/2 inside the event loop (pymicro-fast)."""

from pymicro.serving.fast.transport import FastServerTransport

__all__ = ["FastServerTransport"]
