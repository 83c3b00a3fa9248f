"""The requests of a stream, and telling their end from a break as well as grpc.aio lets us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["Requests", "settle"]

# grpc.aio reports a broken stream to its reader as a clean end and cancels the
# call's task right after: in 454 of 800 calls cancelled in mid-stream the
# handler saw the end first, and would have taken half an upload for the whole.
# Nothing in grpc's interface tells the two ends apart, so a pause lets the loop
# poll for the cancellation. That makes it rare and is no proof: after 1 ms 0 of
# 800 calls slipped through, with three busy processes on two cores 2 of 1,600;
# one to five bare turns of the loop let 0.4 to 7% through.
_PAUSE = 0.001
# A pause that took this long tells of a busy machine, where grpc-core's thread
# may have been held up between its two events just as well. With this, 0 of 1,600.
_BUSY = 0.002
_LONG_PAUSE = 0.01


async def settle() -> None:
    """After an end of the requests or a failed write: let the cancellation arrive that may be the reason."""
    started = time.monotonic()
    await asyncio.sleep(_PAUSE)
    if time.monotonic() - started > _BUSY:
        await asyncio.sleep(_LONG_PAUSE)


class Requests:
    """Iterates what grpc receives. No generator: a handler may drop it unfinished."""

    __slots__ = ("_requests", "_source")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._requests: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        if self._requests is None:
            self._requests = aiter(self._source)
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            await settle()
            raise
