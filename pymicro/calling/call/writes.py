"""Requests written one by one, as the iterator that interceptors expect."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import grpc.aio

__all__ = ["Writes"]


class Writes:
    """Hands each written request to the reader that iterates, one at a time.

    The writer does not wait for the call to begin: an interceptor may hold its call
    back until the call ends, and the call ends only after the requests.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(1)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        request = await self._queue.get()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request

    def end(self, _: Any = None) -> None:
        """The call has ended: nobody takes requests any more."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def write(self, request: Any) -> bool:
        """Hand over a request; False if the call has ended."""
        await self._put(request)
        return not self._ended.done()

    async def close(self) -> None:
        """There are no more requests."""
        await self._put(grpc.aio.EOF)

    async def _put(self, item: Any) -> None:
        if self._ended.done():
            return
        put = asyncio.ensure_future(self._queue.put(item))
        try:
            await asyncio.wait({put, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()
