"""HTTP/2 inside asyncio's event loop, for pymicro's transport `fast`; private to pymicro."""

from pymicro_fast._engine import INTERFACE, NGHTTP2, Buffers, Session, Stream, error_name

__all__ = ["INTERFACE", "NGHTTP2", "Buffers", "Session", "Stream", "error_name"]
