"""What a stub's method returns: grpc.aio's call objects, over the state of a call.

Of a streaming call the user holds one of these, and nothing that lives as long as the call holds
it: grpc.aio lets a stream that nobody reads any more run for ever, and these end it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from grpc.aio import AioRpcError

from pymicro.base.printable import excerpt
from pymicro.calling.call.state import ENDED, CallState, meant_for_us
from pymicro.rpc.grpcio import ALREADY_FINISHED, HALF_CLOSED, EndedBefore
from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.calling.call.writes import Writes
    from pymicro.nodes.node import Node

__all__ = ["CALLS", "StreamStreamCall", "StreamUnaryCall", "UnaryStreamCall", "UnaryUnaryCall"]

EOF = grpc.aio.EOF
MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."


class _Call:
    """What all four shapes have in common.

    Args:
        state: The call.
    """

    _weak = False
    _reply = "await the call first, `reply = await stub.{method}(…)`"

    def __init__(self, state: CallState) -> None:
        self._state = state

    @property
    def node(self) -> Node | None:
        """The node of the last attempt; None before the first one."""
        found: Node | None = self._state.node
        return found

    @property
    def attempts(self) -> int:
        """How often the call was started on a node so far."""
        return self._state.made

    def __getattr__(self, name: str) -> Any:
        # Only for what is not there; names that begin with `_` are asked for by protocols.
        text = f"{excerpt(type(self).__name__)} object has no attribute {excerpt(name)}"
        if not name.startswith("_"):
            method = self._state.called.callee.rpartition("/")[2]
            text += f": {self._reply.format(method=method)}, if {excerpt(name)} is the reply's"
        raise AttributeError(text)

    # grpc.aio.RpcContext

    def cancelled(self) -> bool:
        return self._state.phase is ENDED and self._state.end.cancelled

    def done(self) -> bool:
        return self._state.phase is ENDED

    def time_remaining(self) -> float | None:
        return self._state.time_remaining()

    def cancel(self) -> bool:
        return self._state.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._state.add_done_callback(callback, self, weak=self._weak)

    # grpc.aio.Call. Code and details are those of the exception: those of a go-micro server's error
    # are read out of its text.

    async def initial_metadata(self) -> Any:
        return await self._state.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return (await self._state.outcome()).trailing

    async def code(self) -> Any:
        return (await self._state.outcome()).code

    async def details(self) -> Any:
        return (await self._state.outcome()).details

    async def debug_error_string(self) -> Any:
        return (await self._state.outcome()).debug

    async def wait_for_connection(self) -> None:
        await self._state.wait_for_connection()

    def __repr__(self) -> str:
        where = f" on {self.node.address}" if self.node else ""
        return f"<{type(self).__name__} {self._state.called.callee}{where}, {self._state.phase.value}>"

    __str__ = __repr__


class _Dropped(_Call):
    """A call that ends when nobody holds it any more."""

    _weak = True

    def __del__(self) -> None:
        state: CallState | None = self.__dict__.get("_state")
        if state is None or state.phase is ENDED:
            return
        loop = state.called.channel.loop
        if loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            state.drop(self)
        else:  # it was collected in another thread, or while the loop is at rest
            loop.call_soon_threadsafe(state.cancel)


class _Readable(_Dropped):
    _reply = "read the responses first, `async for reply in stub.{method}(…)`"

    _iterated: bool | None = None
    _reads = False  # whether somebody reads
    _readers: deque[asyncio.Future[None]] | None = None  # who else wants to

    def __aiter__(self) -> Self:
        # The call is its own iterator: a loop over it holds it, and nothing else does.
        self._use(iterate=True)
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        if message is EOF:
            making: list[Any] = [self._state.end.make_error]
            del self  # as in `CallState.result`
            raise StopAsyncIteration if making[0] is None else making.pop()()
        return message

    async def read(self) -> Any:
        if self._iterated is not False:
            self._use(iterate=False)
        message = await self._next()
        if message is EOF:
            making: list[Any] = [self._state.end.make_error]
            if making[0] is not None:
                del self  # as in `CallState.result`
                raise making.pop()()
        return message

    def _use(self, *, iterate: bool) -> None:
        if self._iterated is (not iterate):
            raise grpc.aio.UsageError(MIXED)
        self._iterated = iterate

    async def _next(self) -> Any:
        """The next response; EOF once the call has ended, however it did."""
        state = self._state
        if self._reads:
            await self._my_turn()
        self._reads = True
        try:
            while state.phase is not ENDED:
                inner = state.inner
                try:
                    if inner is None:
                        await state.change()
                        continue
                    if state.read_from is not inner:
                        state.read_from = inner
                        state.messages = inner.__aiter__()
                    message = await state.messages.__anext__()
                except (AioRpcError, StopAsyncIteration):
                    pass
                except asyncio.CancelledError:
                    if meant_for_us():
                        state.cancel()
                        raise
                except Exception as exc:  # of an interceptor's own call object
                    state.fail(exc)
                else:
                    if state.maps is None:
                        return state.received(message)
                    return await state.mapped(message)
                await state.settled(inner)
            return EOF
        finally:
            self._reads = False
            if self._readers:
                self._let_read()

    async def _my_turn(self) -> None:
        """Return when it is this reader's turn: tasks that read side by side get a response each, in order.

        An iterator of grpc.aio's would raise instead, and that would be the end of the call.
        """
        turn = asyncio.get_running_loop().create_future()
        if self._readers is None:
            self._readers = deque()
        self._readers.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was about to read
                self._reads = False
                self._let_read()
            self._state.cancel()
            raise

    def _let_read(self) -> None:
        """Give the turn to the reader that has waited longest, if there is one."""
        while self._readers:
            turn = self._readers.popleft()
            if not turn.done():
                self._reads = True  # nobody reads before it
                turn.set_result(None)
                return


class _Writable(_Dropped):
    _half_closed = False
    _writes: Writes | None = None

    def write_to(self, writes: Writes) -> None:
        """Requests go through interceptors, which read them from the iterator `writes`."""
        self._writes = writes
        self._state.add_done_callback(writes.end, None, weak=False)

    async def write(self, request: Any) -> None:
        state = self._state
        if state.iterates:
            raise grpc.aio.UsageError(MIXED)
        if state.phase is ENDED and state.inner is not None:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if self._half_closed:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        try:
            if self._writes is not None:
                if await self._writes.write(request):
                    return
                await state.outcome()
            else:
                data = state.called.method.serialize(request)
            while state.phase is not ENDED:
                inner = state.inner
                if inner is None:
                    await state.change()
                    continue
                try:
                    await inner.write(data)
                except (AioRpcError, asyncio.InvalidStateError):
                    await state.settled(inner)
                else:
                    state.committed = True
                    return
        except asyncio.CancelledError:
            if meant_for_us():
                state.cancel()
                raise
            await state.outcome()
        if (make_error := state.end.make_error) is not None:
            raise make_error()
        raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def done_writing(self) -> None:
        state = self._state
        if state.iterates:
            raise grpc.aio.UsageError(MIXED)
        if self._half_closed:
            return
        self._half_closed = True
        state.committed = True  # another attempt would have to be told as well
        try:
            if self._writes is not None:
                await self._writes.close()
                return
            inner = await state.begun()
            if inner is not None and state.phase is not ENDED:
                await inner.done_writing()
                return
        except (AioRpcError, EndedBefore):
            await state.outcome()
        except asyncio.CancelledError:
            if meant_for_us():
                state.cancel()
                raise
            await state.outcome()
        if state.inner is None and (make_error := state.end.make_error) is not None:
            raise make_error()


# The abstract bases come last: they declare every method, and Python must find ours first.


class UnaryUnaryCall(_Call, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response. If dropped before it is awaited, it runs on, as in grpc.aio."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._state.result()


class UnaryStreamCall(_Readable, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses; cancelled when nobody holds it any more."""


class StreamUnaryCall(_Writable, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response; cancelled when nobody holds it any more."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._state.result(self)


class StreamStreamCall(_Writable, _Readable, grpc.aio.StreamStreamCall[Any, Any]):
    """Streams both ways; cancelled when nobody holds it any more."""


CALLS: dict[Shape, type[_Call]] = {
    Shape.UNARY_UNARY: UnaryUnaryCall,
    Shape.UNARY_STREAM: UnaryStreamCall,
    Shape.STREAM_UNARY: StreamUnaryCall,
    Shape.STREAM_STREAM: StreamStreamCall,
}
