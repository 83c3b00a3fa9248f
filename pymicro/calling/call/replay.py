"""A user's iterator of requests that can be read from its start again, while it is short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

__all__ = ["Replay"]

# Requests that are kept. If a call is refused and no handler ran, it has seldom sent more than
# this by then. A longer stream must not pay with memory for what is rare.
KEEP = 4


class Replay:
    """Hands an iterator of requests to one attempt after the other.

    It keeps the first requests, so that a call that did not begin can be started
    again; grpc.aio asks for a request as soon as it has sent the one before. If an
    attempt ends while it waits for a request, that request goes to the next attempt.

    Args:
        requests: What the user gave: an async iterable or a plain one.
    """

    def __init__(self, requests: Any) -> None:
        self._asynchronous = hasattr(requests, "__aiter__")
        self._source = aiter(requests) if self._asynchronous else iter(requests)
        self._kept: list[Any] = []
        self._lost = False
        self._asking = False
        self._ended = False
        self._error: BaseException | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._reader: Any = None

    def reader(self) -> Any:
        """The requests from the first one on; earlier readers get no more."""
        self._reader = _AsyncReader(self) if self._asynchronous else _Reader(self)
        return self._reader

    @property
    def from_start(self) -> bool:
        """Whether the next reader would get every request."""
        return not self._lost and self._error is None

    def _ask(self, index: int) -> None:
        """A reader asks the source for the request with this index."""
        if index == KEEP:
            self._lost = True
            self._kept.clear()
        self._asking = True

    def _got(self, request: Any) -> Any:
        if not self._lost:
            self._kept.append(request)
        self._arrived()
        return request

    def _end(self, error: BaseException | None = None) -> None:
        self._ended = True
        self._error = error
        self._arrived()

    def _arrived(self) -> None:
        self._asking = False
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _wait(self) -> None:
        """Wait until the request has arrived that another reader asked the source for."""
        self._arrival = asyncio.get_running_loop().create_future()
        await self._arrival


class _AsyncReader:
    __slots__ = ("_index", "_replay")

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._index = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __anext__(self) -> Any:
        replay = self._replay
        if replay._lost and replay._reader is self:
            return replay._source.__anext__()
        return self._next()

    async def _next(self) -> Any:
        replay, index = self._replay, self._index
        self._index += 1
        while True:
            if replay._reader is not self:
                raise StopAsyncIteration
            if index < len(replay._kept):
                return replay._kept[index]
            if replay._error is not None:
                raise replay._error
            if replay._ended:
                raise StopAsyncIteration
            if not replay._asking:
                break
            await replay._wait()
        replay._ask(index)
        try:
            return replay._got(await replay._source.__anext__())
        except StopAsyncIteration:
            replay._end()
            raise
        except BaseException as exc:
            replay._end(exc)
            raise


class _Reader:
    __slots__ = ("_index", "_replay")

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._index = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        replay, index = self._replay, self._index
        if replay._reader is not self:
            raise StopIteration
        self._index += 1
        if index < len(replay._kept):
            return replay._kept[index]
        if replay._ended:
            raise StopIteration
        replay._ask(index)
        try:
            return replay._got(next(replay._source))
        except StopIteration:
            replay._end()
            raise
        except BaseException as exc:
            replay._end(exc)
            raise
