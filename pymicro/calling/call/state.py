"""The state machine of a call: it waits, it runs, it has ended."""

from __future__ import annotations

import asyncio
import enum
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from grpc.aio import AioRpcError

from pymicro.calling.call.end import End

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["ENDED", "RUNNING", "WAITING", "CallState", "Phase", "meant_for_us"]


class Phase(enum.Enum):
    """Where a call is.

    WAITING   nothing runs: it waits for a node, for the pause before another attempt, or for
              interceptors. `inner` is None.
    RUNNING   `inner` is the call that runs: on the network, or inside interceptors.
    ENDED     `end` says how. Nothing comes after it.

    From WAITING to RUNNING and back as often as there are attempts; from both to ENDED, once.
    """

    WAITING = "waiting"
    RUNNING = "in progress"
    ENDED = "done"


WAITING, RUNNING, ENDED = Phase.WAITING, Phase.RUNNING, Phase.ENDED


class CallState:
    """One call of the user: where it is, and how everybody learns of its end.

    What awaits, reads, writes, asks for the code or left a callback learns of one `End`, and
    only after it is decided that there is no other attempt. Subclasses decide: `Attempts`
    for a call on the network, `Conducted` for one inside interceptors.

    While it has not ended it is in the client's list of calls in flight, which keeps it alive. It holds
    the user's call object weakly, or not at all.

    Attributes:
        called: The method that is called, on its channel.
        phase: Where it is.
        inner: The call that runs, or ran last.
        deadline: A moment of the loop's clock; None without one.
        task: What waits in WAITING, or conducts the call; it ends with the call.
        pump: What sends the requests of an iterator; it ends with the call.
        node: The node of the last attempt; None before the first one.
        made: The number of attempts so far.
        iterates: Whether the requests come from an iterator, and not from `write`.
        committed: Whether there can be no other attempt: messages have passed either way.
        read_from: The inner call that responses are read from.
        messages: Its iterator of responses.
        maps: What `mapped` applies to responses; None for nothing.
    """

    # The defaults are on the class: a call pays only for what it uses.
    phase = WAITING
    inner: Any = None
    iterates = False
    committed = False
    maps: Any = None
    read_from: Any = None
    messages: Any = None
    deadline: float | None = None
    task: asyncio.Task[Any] | None = None
    pump: asyncio.Task[None] | None = None
    node: Any = None
    made = 0
    _end: End | None = None
    _waiters: list[asyncio.Future[None]] | None = None
    _callbacks: list[tuple[Callable[[Any], None], Callable[[], Any]]] | None = None

    def __init__(self, called: Called) -> None:
        self.called = called

    # Changes of the phase

    def run(self, inner: Any) -> None:
        """`inner` runs from now on."""
        self.inner = inner
        self.phase = RUNNING
        if self._waiters:
            self._wake()

    def wait(self) -> None:
        """Nothing runs for a while."""
        self.inner = None
        self.phase = WAITING
        if self._waiters:
            self._wake()

    def finish(self, end: End | None = None) -> None:
        """The call has ended; None if `make_end` can say later how."""
        if self.phase is ENDED:
            return
        self.phase = ENDED
        self._end = end
        self.called.channel.live.discard(self)
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.pump is not None:
            self.pump.cancel()
            self.pump = None
        if self._waiters:
            self._wake()
        if self._callbacks:
            self.tell()

    def cancel(self) -> bool:
        """End the call now; False if it had ended."""
        return self.fail(asyncio.CancelledError())

    def fail(self, error: BaseException) -> bool:
        """End the call now with this exception; False if it had ended."""
        if self.phase is ENDED:
            return False
        inner = self.inner
        self.finish(End.failed(error, self.called.callee))
        if inner is not None:
            inner.cancel()
        return True

    def drop(self, call: Any) -> None:
        """The user's call object is being collected: end the call, and tell its callbacks a last time."""
        if self._callbacks:
            self._callbacks = [(callback, lambda: call) for callback, _ in self._callbacks]
        self.cancel()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters or (), None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def tell(self) -> None:
        """Call the done callbacks."""
        callbacks, self._callbacks = self._callbacks or (), None
        for callback, holder in callbacks:
            self._call_back(callback, holder())

    def _call_back(self, callback: Callable[[Any], None], call: Any) -> None:
        try:
            callback(call)
        except Exception as exc:  # it must not keep the others from being told
            self.called.channel.loop.call_exception_handler(
                {"message": f"a done callback of {self.called.callee} failed", "exception": exc}
            )

    # Questions

    @property
    def end(self) -> End:
        """How it ended; only in ENDED."""
        if self._end is None:
            self._end = self.make_end()
        return self._end

    def make_end(self) -> End:
        """How it ended, if `finish` was not told."""
        raise NotImplementedError

    async def outcome(self) -> End:
        """How it ended, as soon as it has."""
        while self.phase is not ENDED:
            await self.change()
        return self.end

    async def change(self) -> None:
        """Return after the next change of the phase."""
        await self._waiter()

    def _waiter(self) -> asyncio.Future[None]:
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        return waiter

    async def settled(self, inner: Any) -> None:
        """Return when it is decided whether the end of `inner` is the end of the call."""
        while self.inner is inner and self.phase is not ENDED:
            await self.change()

    def result(self, holder: object = None) -> Generator[Any, None, Any]:
        """The response, or what ended the call, for `__await__`.

        Args:
            holder: What must not be dropped while somebody waits here.
        """
        try:
            while self.phase is not ENDED:
                yield from self._waiter()
        except asyncio.CancelledError:
            self.cancel()
            raise
        making: list[Any] = [self.end.make_error]
        if making[0] is not None:
            # An error that the end keeps must not hold, by its traceback and this frame, what holds it.
            del self, holder
            raise making.pop()()
        return self.response()

    def response(self) -> Any:
        """The one response of a call that ended OK."""
        raise NotImplementedError

    def received(self, message: Any) -> Any:
        """A response of a stream, as it came from `inner`; the message for the user."""
        return message

    async def mapped(self, message: Any) -> Any:
        """The same, after what `maps` says; EOF if that has ended the call."""
        raise NotImplementedError

    async def begun(self) -> Any:
        """The call that runs, or ran last; None if it ended before one ran."""
        while self.phase is WAITING:
            await self.change()
        return self.inner

    def time_remaining(self) -> float | None:
        """Seconds to the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self.called.channel.loop.time())

    async def initial_metadata(self) -> Any:
        """That of the last attempt, as soon as it is there."""
        while (inner := await self.begun()) is not None and self.phase is not ENDED:
            try:
                metadata = await inner.initial_metadata()
            except AioRpcError:
                await self.settled(inner)
                continue
            # An attempt that is followed by another one may have had some too.
            if inner is self.inner and self.phase is RUNNING:
                return metadata
        return self.end.initial

    async def wait_for_connection(self) -> None:
        """Return when it has been sent; raise what ended it."""
        while (inner := await self.begun()) is not None and self.phase is not ENDED:
            try:
                await inner.wait_for_connection()
            except asyncio.CancelledError:
                if meant_for_us():
                    raise
                await self.settled(inner)
            except Exception:
                await self.settled(inner)
            else:
                if inner is self.inner and self.phase is RUNNING:
                    return
        if (make_error := (await self.outcome()).make_error) is not None:
            raise make_error()

    def add_done_callback(self, callback: Callable[[Any], None], call: Any, *, weak: bool) -> None:
        """Call `callback(call)` at the end, or at once if it has ended.

        Args:
            callback: What to call.
            call: The user's call object.
            weak: Whether to hold `call` weakly.
        """
        if self.phase is ENDED and not self._callbacks:
            self._call_back(callback, call)
            return
        entry = callback, weakref.ref(call) if weak else lambda: call
        if self._callbacks is None:
            self._callbacks = [entry]
        else:
            self._callbacks.append(entry)


def meant_for_us() -> bool:
    """Whether the CancelledError that was just caught is meant for the code that runs here.

    If it is not, it says that the call which was awaited has been cancelled.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
