"""Compressing and decompressing that hold no event loop: what is small is done at once, the rest in threads.

zlib lets other threads run while it works. It compresses some 20 to 60 MB a second, and unpacks some 300; a
message of 4 KB may become one of 4 MB.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from pymicro_fast.wire import Unpacker, compress

__all__ = ["packed", "unpacked"]

# Bytes of a message that are compressed, or unpacked, by the event loop: a millisecond or two.
_HERE = 32768
# Bytes that the event loop makes of a message that it unpacks: as long.
_UNPACKED_HERE = 262144
# Each has one message at a time; others wait. More would take the CPU from the event loop.
_THREADS = 2

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_THREADS, "pymicro-packing")
    return _pool


def _after_fork() -> None:
    global _pool
    _pool = None  # its threads are the parent's


os.register_at_fork(after_in_child=_after_fork)


def packed(loop: asyncio.AbstractEventLoop, encoding: bytes, data: bytes) -> bytes | asyncio.Future[bytes]:
    """A message, compressed (`gzip` or `deflate`); a future of it, if it is long."""
    if len(data) <= _HERE:
        return compress(encoding, data)
    return loop.run_in_executor(_threads(), compress, encoding, data)


def unpacked(
    loop: asyncio.AbstractEventLoop, encoding: bytes | None, data: bytes, limit: int
) -> bytes | asyncio.Future[bytes]:
    """A message that came compressed; a future of it, if unpacking it takes long.

    Args:
        loop: The event loop.
        encoding: As `grpc-encoding` says.
        data: The message as it came.
        limit: The largest one that is made of it; no more is unpacked.

    Raises:
        LookupError: The encoding is unknown, or there is none.
        TooLarge: It is larger; also out of the future, as the next.
        ValueError: It is damaged.
    """
    unpacker = Unpacker(encoding, limit)
    if not data:
        return b""  # as in `decompress`
    if len(data) > _HERE:
        return loop.run_in_executor(_threads(), _whole, unpacker, data, limit)
    unpacker.feed(data, _UNPACKED_HERE)
    if unpacker.left:
        return loop.run_in_executor(_threads(), unpacker.rest)
    return unpacker.message()


def _whole(unpacker: Unpacker, data: bytes, limit: int) -> bytes:
    unpacker.feed(data, limit + 1)
    return unpacker.message()
