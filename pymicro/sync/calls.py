"""What a stub's method returns without `await`: grpc's call, future and iterator of responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import grpc

from pymicro.base.copies import NotCopied
from pymicro.serving.transport import Metadatum
from pymicro.sync.errors import pairs_of
from pymicro.sync.under_way import END, CallEnd, UnderWay

if TYPE_CHECKING:
    from types import TracebackType

    from pymicro.nodes.node import Node

    _Future = grpc.Future[Any]
else:
    _Future = grpc.Future

__all__ = ["SyncCall", "SyncStream", "wait_for_end"]

# Seconds that `cancel` waits for the end of the call, which follows at once unless the loop is held.
CANCELS = 1.0


class SyncCall(NotCopied, grpc.Call, _Future):
    """A call, as `stub.Method.future(…)` and `stub.Method.with_call(…)` give it.

    It may be used from several threads. What waits can be interrupted by Ctrl-C. As in grpc, it is
    cancelled when nobody holds it any more; a callback of it holds it.
    """

    def __init__(self, call: UnderWay) -> None:
        self._call = call

    @property
    def node(self) -> Node | None:
        """The node of the last attempt; None before the first one."""
        found: Node | None = (self._call.inner or self._call).node
        return found

    @property
    def attempts(self) -> int:
        """How often the call was started on a node so far."""
        return int((self._call.inner or self._call).attempts)

    def __del__(self) -> None:
        call: UnderWay | None = self.__dict__.get("_call")
        if call is not None:
            call.cancel()

    def __repr__(self) -> str:
        where = f" on {self.node.address}" if self.node else ""
        state = "done" if self.done() else "in progress"
        return f"<{type(self).__name__} {self._call.called.callee}{where}, {state}>"

    # grpc.RpcContext

    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self._call.ended.is_set

    def time_remaining(self) -> float | None:  # type: ignore[override] # as in errors.py
        """Seconds to the deadline, not below 0; None without one, and after the end."""
        inner = self._call.inner
        found: float | None = inner.time_remaining() if inner is not None else None
        return found

    def cancel(self) -> bool:
        """End it now; False if it had ended."""
        call = self._call
        if call.ended.is_set or call.thread.lost:
            return False
        call.cancel()
        if call.thread.here:
            return True
        call.ended.wait(CANCELS)
        return call.cancelled or not call.ended.is_set

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call this when it ends, in a thread where it may block; False if it has ended."""
        return self._call.add_callback(callback)

    # grpc.Call: these wait

    def initial_metadata(self) -> tuple[Metadatum, ...]:
        """What the server sent before its first response, as soon as it is there."""
        call = self._call
        if call.told is not None or call.ended.is_set:
            return call.told.initial if call.told is not None else ()

        async def arrived() -> tuple[Metadatum, ...]:
            # It has begun: what begins a call was handed to the loop before this.
            if call.inner is not None:
                return pairs_of(await call.inner.initial_metadata())
            return call.told.initial if call.told is not None else ()

        return call.thread.run(arrived, f"the question for metadata of {call.called.callee}")

    def trailing_metadata(self) -> tuple[Metadatum, ...]:
        """What the server sent at the end, which this waits for."""
        return self._told().trailing

    def code(self) -> grpc.StatusCode:
        """The status code, as soon as the call has ended."""
        return self._told().code

    def details(self) -> str:
        """The text that goes with the code, as soon as the call has ended."""
        return self._told().details

    def debug_error_string(self) -> str | None:
        """grpc-core's own account of the end; None if there is none."""
        return self._told().debug

    # grpc.Future

    def cancelled(self) -> bool:
        """Whether this side has cancelled it."""
        return self._call.cancelled

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._call.ended.is_set

    def done(self) -> bool:
        """Whether it has ended."""
        return self._call.ended.is_set

    def result(self, timeout: float | None = None) -> Any:
        """The response; None of a stream of them.

        Args:
            timeout: Seconds to wait; the call goes on afterwards.

        Raises:
            RpcError: What ended the call.
            grpc.FutureTimeoutError: It has not ended in time.
            grpc.FutureCancelledError: It was cancelled.
        """
        self.exception(timeout)
        if self._call.error is not None:
            raise self._call.failure()
        return self._call.response

    def exception(self, timeout: float | None = None) -> Any:
        """What ended the call; None if it ended OK. Waits and raises as `result`."""
        self._wait(timeout)
        if self._call.cancelled:
            raise grpc.FutureCancelledError
        return self._call.error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """That of `exception`."""
        error = self.exception(timeout)
        return error.__traceback__ if error is not None else None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call when it ends, in a thread where it may block; at once if it has ended."""
        if not self._call.add_callback(lambda: fn(self)):
            fn(self)

    def _told(self) -> CallEnd:
        self._wait(None)
        told = self._call.told
        assert told is not None
        return told

    def _wait(self, timeout: float | None) -> None:
        call = self._call
        if not call.thread.wait(call.ended, f"a call of {call.called.callee}", timeout):
            raise grpc.FutureTimeoutError


class SyncStream(SyncCall):
    """A call with a stream of responses: iterate over it."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        call = self._call
        if call.messages.empty():
            call.thread.check(f"a call of {call.called.callee}")
        try:
            message = call.take()
        except BaseException:  # Ctrl-C: nobody goes on reading
            call.cancel()
            raise
        if message is not END:
            return message
        if call.error is not None:
            raise call.failure()
        raise StopIteration

    next = __next__


def wait_for_end(held: SyncCall) -> UnderWay:
    """The call that somebody holds, after its end, for code that has made it and waits for nothing else."""
    call = held._call
    try:
        call.thread.wait(call.ended, f"a call of {call.called.callee}")
    except BaseException:  # Ctrl-C
        call.cancel()
        raise
    return call
