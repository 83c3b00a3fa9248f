"""One call in the loop of the synchronous clients, and what other threads see of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc.aio import EOF, UsageError

from pymicro.base.errors import PymicroError
from pymicro.base.tracebacks import own_frames
from pymicro.rpc.grpcio import LOCALLY_CANCELLED
from pymicro.rpc.status import Cancelled, RpcError
from pymicro.serving.transport import Metadatum
from pymicro.sync.errors import pairs_of, synchronous
from pymicro.sync.thread import Latch

if TYPE_CHECKING:
    from types import TracebackType

    from pymicro.calling.call.called import Called
    from pymicro.nodes.node import Node
    from pymicro.sync.fed import FedRequests
    from pymicro.sync.thread import LoopThread

__all__ = ["END", "CallEnd", "UnderWay"]

END: Any = object()
"""After the last response of a stream."""

# Responses of a stream that are read before anybody asks for them: the thread that takes them and
# the loop meet once for several. The loop goes on reading when half of them are taken.
AHEAD = 16


class CallEnd(NamedTuple):
    """How a call ended, for `code()` and the like."""

    code: grpc.StatusCode
    details: str
    initial: tuple[Metadatum, ...] = ()
    trailing: tuple[Metadatum, ...] = ()
    debug: str | None = None


class UnderWay:
    """A call. It begins, goes on and ends in the loop; what others read is set before `ended`.

    Args:
        thread: The loop's.
        called: The method.
        tell: Whether anybody can ask for the status of a call that ended OK.
        feed: Where the requests come from, if they stream.

    Attributes:
        ended: Set at the end.
        response: The one response.
        error: What ended the call otherwise; None if it ended OK.
        told: How it ended; None for a call that ended OK and nobody can ask of.
        cancelled: Whether this side cancelled it.
        messages: Responses of a stream, and END after them.
        inner: The asynchronous call; None before it begins, and after its end.
        node: The node of the last attempt, once the call has ended; None if there was none.
        attempts: How often it was started on a node, once it has ended.
    """

    __slots__ = (
        "_asked",
        "_callbacks",
        "_feed",
        "_full",
        "_tell",
        "_traceback",
        "attempts",
        "called",
        "cancelled",
        "ended",
        "error",
        "inner",
        "messages",
        "node",
        "response",
        "thread",
        "told",
    )

    def __init__(self, thread: LoopThread, called: Called, *, tell: bool, feed: FedRequests | None) -> None:
        self.thread = thread
        self.called = called
        self.ended = Latch()
        self.response: Any = None
        self.error: BaseException | None = None
        self.told: CallEnd | None = None
        self.cancelled = False
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.inner: Any = None
        self.node: Node | None = None
        self.attempts = 0
        self._tell = tell
        self._feed = feed
        self._asked = False
        self._full: asyncio.Future[None] | None = None
        self._callbacks: deque[Callable[[], object]] = deque()
        self._traceback: TracebackType | None = None

    # For other threads

    def begin(self, start: Callable[..., Any], request: Any, options: dict[str, Any]) -> None:
        """Start the call; `start` is the asynchronous multicallable."""
        self.thread.post(self._begin, start, request, options)

    def cancel(self) -> None:
        """End it, unless it has ended."""
        if not self.ended.is_set:
            with contextlib.suppress(PymicroError):  # the process was forked, or ends
                self.thread.post(self._cancel)

    def take(self) -> Any:
        """The next response of a stream; END after the last."""
        message = self.messages.get()
        if message is END:
            self.messages.put(END)  # for another thread that reads
        elif self._full is not None and self.messages.qsize() <= AHEAD // 2:
            with contextlib.suppress(PymicroError):
                self.thread.post(self._go_on)
        return message

    def failure(self) -> BaseException:
        """What ended the call, which ended with an error, for the program to see.

        It is raised in the function that the program's code has called: that is then the one frame of
        ours in its traceback.
        """
        assert self.error is not None
        return self.error.with_traceback(self._traceback)

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call this at the end; False if that has come."""
        # Without a lock: the loop's thread would wait for it while a signal's handler waits for the loop.
        self._callbacks.append(callback)
        if not self.ended.is_set:
            return True
        try:
            self._callbacks.remove(callback)
        except ValueError:  # the end came in between, and has taken it
            return True
        return False

    # In the loop

    def _begin(self, start: Callable[..., Any], request: Any, options: dict[str, Any]) -> None:
        if self._asked:
            self._end(asyncio.CancelledError())
            return
        try:
            inner = self.inner = start(request, **options)
        except Exception as exc:
            self._end(exc)
            return
        self.thread.start(self._answered(inner) if self.called.one_response else self._streamed(inner))

    def _cancel(self) -> None:
        self._asked = True
        if self.inner is not None:
            self.inner.cancel()
        self._go_on()

    async def _answered(self, inner: Any) -> None:
        try:
            self.response = await inner
            if self._tell:
                self.told = await _told(inner)
        except BaseException as exc:
            await self._failed(inner, exc)
        else:
            self._end(None)

    async def _streamed(self, inner: Any) -> None:
        inner.add_done_callback(lambda _: self._go_on())
        try:
            while (message := await inner.read()) is not EOF:
                self.messages.put(message)
                if self.messages.qsize() >= AHEAD:
                    await self._taken(inner)
            self.told = await _told(inner)
        except BaseException as exc:
            await self._failed(inner, exc)
        else:
            self._end(None)

    async def _taken(self, inner: Any) -> None:
        """Return when responses have been taken, or the call has ended."""
        full = self._full = self.thread.loop.create_future()
        # Whoever takes one looks at `_full` afterwards, so one of both sees the other.
        if self.messages.qsize() > AHEAD // 2 and not inner.done():
            await full
        self._full = None

    def _go_on(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)

    async def _failed(self, inner: Any, exc: BaseException) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, RpcError):
            with contextlib.suppress(BaseException):
                self.told = await _told(inner)
        self._end(exc)

    def _translated(self, exc: BaseException) -> BaseException:
        """What ended the call, for other threads, and how that is told."""
        if isinstance(exc, asyncio.CancelledError):
            self.cancelled = True
            text = LOCALLY_CANCELLED if self._asked else f"the channel to {self.called.service} was closed"
            exc = Cancelled(text, callee=self.called.callee, from_peer=False)
        if isinstance(exc, RpcError):
            exc = synchronous(exc)
            self.told = CallEnd(
                exc.code(),
                exc.details() or "",
                pairs_of(exc.initial_metadata()),
                pairs_of(exc.trailing_metadata()),
                exc.debug_error_string(),
            )
        elif isinstance(exc, UsageError):  # the channel is closed: grpc's channels raise this then
            exc = ValueError(str(exc))
        if self.told is None:
            self.told = CallEnd(grpc.StatusCode.UNKNOWN, f"{type(exc).__name__}: {exc}")
        return exc

    def _end(self, exc: BaseException | None) -> None:
        if exc is not None:
            try:
                exc = self._translated(exc)
            except Exception as failure:  # of an error class of the program's own; who waits must not wait on
                exc = failure
                self.told = self.told or CallEnd(grpc.StatusCode.UNKNOWN, type(failure).__name__)
        feed = self._feed
        if feed is not None:
            feed.close()
        if exc is not None:
            # The way through this loop says nothing to whoever catches it in another thread. Frames of
            # the program's own do, of its interceptors and of its iterator of requests.
            frames = feed.traceback if feed is not None and exc is feed.error else exc.__traceback__
            self._traceback = None if isinstance(exc, RpcError) else own_frames(frames)
        self.error = exc
        if self.inner is not None:
            self.node, self.attempts = self.inner.node, self.inner.attempts
            # Whoever keeps the call keeps nothing of gRPC: what is left of that when Python itself
            # ends complains (grpcio 1.68).
            self.inner = None
        if self.thread.ending:
            return
        self.ended.set()
        self.messages.put(END)
        with contextlib.suppress(IndexError):  # all are taken
            while True:
                self.thread.call_back(self._callbacks.popleft(), self.called.callee)


async def _told(inner: Any) -> CallEnd:
    return CallEnd(
        await inner.code(),
        await inner.details() or "",
        pairs_of(await inner.initial_metadata()),
        pairs_of(await inner.trailing_metadata()),
        await inner.debug_error_string(),
    )
