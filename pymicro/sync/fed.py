"""A plain iterator of requests, read in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self

from pymicro.base.errors import PymicroError

if TYPE_CHECKING:
    from types import TracebackType

    from pymicro.sync.thread import LoopThread

__all__ = ["FedRequests"]


class FedRequests:
    """An asynchronous iterator, for the loop, of what a plain one gives in a thread.

    The thread ends with the iterator, or after the request that it is making when the call ends.

    Args:
        requests: The iterator.
        serialize: Called with each request in the thread, before the next one is made: code often
            changes one message and yields it again.
        ahead: How many requests are made before the network asks for them.

    Attributes:
        error: What ended the iterator; None if nothing did.
        traceback: That of `error`.
    """

    def __init__(
        self, requests: Iterator[Any], serialize: Callable[[Any], Any], thread: LoopThread, ahead: int
    ) -> None:
        self._requests: Iterator[Any] | None = requests
        self._serialize = serialize
        self._thread = thread
        self._room = threading.Semaphore(ahead)
        self._made: deque[Any] = deque()
        self._complete = self._closed = False
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None
        self._waiting: asyncio.Future[None] | None = None

    def start(self, path: str) -> None:
        """Begin to read, in the caller's context."""
        run = copy_context().run
        threading.Thread(
            target=run, args=(self._feed,), name=f"pymicro requests of {path}", daemon=True
        ).start()

    def close(self) -> None:
        """The call has ended: make no more requests."""
        self._closed = True
        self._room.release()

    # In the loop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        self._room.release()
        while not self._made:
            if self._complete:
                if self.error is not None:
                    raise self.error
                raise StopAsyncIteration
            waiting = self._waiting = asyncio.get_running_loop().create_future()
            # The thread looks at `_waiting` after it has made something, so one of both sees the other.
            if not (self._made or self._complete):
                await waiting
        return self._made.popleft()

    # In the thread

    def _feed(self) -> None:
        requests, self._requests = self._requests, None
        assert requests is not None
        try:
            while True:
                self._room.acquire()
                if self._closed:
                    return
                try:
                    request = next(requests)
                except StopIteration:
                    return
                self._made.append(self._serialize(request))
                self._wake()
        except BaseException as exc:
            # Some would end the loop that is told of them, or pass for the end of the requests.
            plain = isinstance(exc, Exception) and not isinstance(exc, StopAsyncIteration)
            self.error = exc if plain else _raised(exc)  # type: ignore[assignment]
            self.traceback = exc.__traceback__
        finally:
            self._complete = True
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not self._closed:
            with contextlib.suppress(PymicroError):  # the process ends
                self._thread.post(_set, waiting)


def _set(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _raised(exc: BaseException) -> RuntimeError:
    made = RuntimeError(f"the iterator of requests raised {type(exc).__name__}")
    made.__cause__ = exc
    return made
