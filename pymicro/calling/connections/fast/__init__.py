"""The transport `fast`: HTTP/2 inside the event loop (pymicro-fast), for whoever asks for it."""

from pymicro.calling.connections.fast.transport import FastTransport

__all__ = ["FastTransport"]
