"""HTTP/2 inside asyncio's event loop, for pymicro's transport `fast`; private to pymicro."""

from __future__ import annotations

import asyncio
import weakref

from pymicro_fast._engine import INTERFACE, NGHTTP2, Buffers, Session, Stream, error_name

__all__ = ["INTERFACE", "NGHTTP2", "Buffers", "Session", "Stream", "buffers_of", "error_name"]

_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Buffers] = weakref.WeakKeyDictionary()


def buffers_of(loop: asyncio.AbstractEventLoop) -> Buffers:
    """The buffers that all connections of a loop share."""
    try:
        return _buffers[loop]
    except KeyError:
        return _buffers.setdefault(loop, Buffers())
