"""A stream of transport `fast` as both ends use it: who waits for its news, and its compressed messages."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from pymicro_fast import Stream
from pymicro_fast.packing import packed, unpacked

__all__ = ["ENCODINGS", "CallStream"]

# What grpc's names for compression are on the wire.
ENCODINGS: dict[Any, bytes | None] = {
    None: None,
    grpc.Compression.NoCompression: None,
    grpc.Compression.Deflate: b"deflate",
    grpc.Compression.Gzip: b"gzip",
}


class CallStream(Stream):
    """One call's stream. Its defaults are its subclasses', of which one has slots and one has none.

    Attributes:
        unpacking: The message that was taken last, while it is unpacked in a thread: the next one
            waits for it, and so does the end.
    """

    __slots__ = ()

    unpacking: asyncio.Future[bytes] | None
    _waiters: list[asyncio.Future[None]] | None
    _packing: asyncio.Lock | None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        raise NotImplementedError

    # Waiting for news

    def waiter(self) -> asyncio.Future[None]:
        """Done with the next news."""
        made = self.loop().create_future()
        if self._waiters is None:
            self._waiters = [made]
        else:
            self._waiters.append(made)
        return made

    def wake(self) -> None:
        """There is news."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # Compressed messages

    def inflate(self, data: bytes) -> bytes | asyncio.Future[bytes]:
        """See `Stream`: a message that is soon unpacked, or a future of it, which is `unpacking` then."""
        made = unpacked(self.loop(), self.encoding, data, self.session.max_message)
        if not isinstance(made, bytes):
            self.unpacking = made
        return made

    async def pack(self, encoding: bytes, message: bytes) -> bytes:
        """The message compressed; whoever sends it holds `packing` until it was sent."""
        made = packed(self.loop(), encoding, message)
        return made if isinstance(made, bytes) else await made

    def packing(self) -> asyncio.Lock:
        """Who compresses and sends holds this, so that no message overtakes a longer one."""
        if self._packing is None:
            self._packing = asyncio.Lock()
        return self._packing
