"""What a stub's method returns: grpc.aio's call objects over a picked node.

Each holds the real call and delegates to it. It adds no Task and no Future of
its own unless the call waits for a node, waits before a retry or runs through
interceptors (`Deferred`). It maps errors to `pymicro.rpc.status`. After a retry
there is another real call, and questions go to that one.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from grpc.aio import AioRpcError

from pymicro.calling.call.deferred import Deferred
from pymicro.calling.call.ended import Ended
from pymicro.calling.call.writes import Writes
from pymicro.nodes.node import Node
from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.gomicro import read_status
from pymicro.rpc.wire.status import from_aio

if TYPE_CHECKING:
    from pymicro.calling.call.attempts import Attempts

__all__ = ["StreamStreamCall", "StreamUnaryCall", "UnaryStreamCall", "UnaryUnaryCall"]

DoneCallback = Callable[[Any], None]

_OK = grpc.StatusCode.OK


class _Call:
    """What all four shapes have in common.

    Args:
        callee: Service and method, for errors.
        call: The real call; None if it is deferred.
        node: The node the call went to; None if it is not known (yet).
    """

    attempts: Attempts | None = None
    _call: Any = None
    _deferred: Deferred | None = None
    _callbacks: list[DoneCallback] | None = None
    _response = "await the call first, `reply = await stub.{method}(…)`"

    def __init__(self, callee: str, call: Any = None, node: Node | None = None) -> None:
        self._callee = callee
        self._call = call
        self.node = node  # the node of the last attempt

    def __getattr__(self, name: str) -> Any:
        # Only for what is not there; names that begin with `_` are asked for by protocols.
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        if not name.startswith("_"):
            method = self._callee.rpartition("/")[2]
            text += f": {self._response.format(method=method)}, if {name!r} is the reply's"
        raise AttributeError(text)

    # Beginning

    def begins_later(self, deferred: Deferred) -> None:
        """The underlying call will start later, for the first time or again."""
        self._call = None
        self._deferred = deferred

    def begun(self, call: Any) -> None:
        """The underlying call has started, for the first time or again on another node."""
        self._call = call
        if self.attempts is not None:
            self.node = self.attempts.node
        if self._callbacks:
            call.add_done_callback(self._fire_later(call))

    async def _underlying(self) -> Any:
        if self._call is None:
            assert self._deferred is not None, "neither started nor deferred"
            return await self._deferred.wait()
        return self._call

    async def _ask(self, name: str) -> Any:
        """Ask the underlying call; if its answer ends an attempt, ask the next attempt, up to the last."""
        while True:
            call = await self._underlying()
            answer = await getattr(call, name)()
            if call is self._call:
                return answer

    def _commit(self) -> None:
        """Messages have passed: the call cannot be started again."""
        if self.attempts is not None:
            self.attempts.committed = True

    def _ends(self, call: Any, error: AioRpcError) -> bool:
        """Whether this ends the call, and not just an attempt that is followed by another one."""
        return call is self._call and not (self.attempts is not None and self.attempts.reconsider(error))

    def _error(self, exc: AioRpcError) -> RpcError:
        if not isinstance(exc, RpcError):
            made = self.attempts.made if self.attempts is not None else 1
            return from_aio(exc, node=self.node, callee=self._callee, attempts=made)
        if exc.callee is None:  # this side made the error, before there was a node
            exc.callee = self._callee
        return exc

    # grpc.aio.RpcContext

    def cancelled(self) -> bool:
        return self._call is not None and bool(self._call.cancelled())

    def done(self) -> bool:
        return self._call is not None and bool(self._call.done())

    def time_remaining(self) -> float | None:
        if self._call is not None:
            return self._call.time_remaining()  # type: ignore[no-any-return]
        deadline = self._deferred.deadline if self._deferred is not None else None
        return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())

    def cancel(self) -> bool:
        if self._call is not None:
            return bool(self._call.cancel())
        return self._deferred is not None and self._deferred.cancel()

    def add_done_callback(self, callback: DoneCallback) -> None:
        if self.done():
            callback(self)
        elif self._callbacks:
            self._callbacks.append(callback)
        else:
            self._callbacks = [callback]
            if self._call is not None:
                self._call.add_done_callback(self._fire_later(self._call))

    def _fire_later(self, call: Any) -> DoneCallback:
        return lambda _: self._fire(call)

    def _fire(self, ended: Any) -> None:
        if ended is not self._call:
            return  # this ended an attempt, and the call goes on with another one
        callbacks, self._callbacks = self._callbacks or (), None
        for callback in callbacks:
            callback(self)

    # grpc.aio.Call. Code and details are those of the exception. For a go-micro server's error, they
    # are read out of its text by the object that holds the real call and knows its attempts.

    async def initial_metadata(self) -> Any:
        return await self._ask("initial_metadata")

    async def trailing_metadata(self) -> Any:
        return await self._ask("trailing_metadata")

    async def code(self) -> Any:
        code = await self._ask("code")
        if code is _OK or self.attempts is None:
            return code
        return read_status(code, await self._ask("details") or "")[0]

    async def details(self) -> Any:
        text = await self._ask("details")
        if not text or self.attempts is None:
            return text
        return read_status(await self._ask("code"), text)[1]

    async def debug_error_string(self) -> Any:
        return await self._ask("debug_error_string")

    async def wait_for_connection(self) -> None:
        while True:
            call = await self._underlying()
            try:
                await call.wait_for_connection()
            except AioRpcError as exc:
                if self._ends(call, exc):
                    raise self._error(exc) from None
            else:
                return

    def __repr__(self) -> str:
        state = "waiting" if self._call is None else "done" if self.done() else "in progress"
        where = f" on {self.node.address}" if self.node else ""
        return f"<{type(self).__name__} {self._callee}{where}, {state}>"

    __str__ = __repr__


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            call = self._call
            try:
                if call is None:
                    call = yield from self._underlying().__await__()
                return (yield from call.__await__())
            except AioRpcError as exc:
                if self._ends(call, exc):
                    raise self._error(exc) from None
            except BaseException:
                # Somebody cancelled the wait, or grpc.aio cannot send the request. Neither ends
                # a call of grpc.aio's, but this call must end.
                if not self.done():
                    self.cancel()
                raise


class _Dropped(_Call):
    """A call that ends when nobody holds it any more.

    grpc.aio lets a stream that nobody reads any more run for ever. So nothing that
    lives as long as the real call may hold this object.
    """

    def __init__(self, callee: str, call: Any = None, node: Node | None = None) -> None:
        super().__init__(callee, call, node)
        self._loop = asyncio.get_running_loop()

    def _fire_later(self, call: Any) -> DoneCallback:
        reference = weakref.ref(self)

        def fire(_: Any) -> None:
            held = reference()
            if held is not None:
                held._fire(call)

        return fire

    def __del__(self) -> None:
        held = self._deferred if self._call is None else self._call
        if held is None or self.done() or self._loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            held.cancel()
            self._fire(self._call)
        else:  # it was collected in another thread, or while the loop is at rest
            self._loop.call_soon_threadsafe(held.cancel)


class _StreamResponse(_Dropped):
    _response = "read the responses first, `async for reply in stub.{method}(…)`"
    _messages: AsyncIterator[Any] | None = None

    def begins_later(self, deferred: Deferred) -> None:
        self._messages = None
        super().begins_later(deferred)

    def begun(self, call: Any) -> None:
        self._messages = None
        super().begun(call)

    def __aiter__(self) -> Self:
        # The call is its own iterator: a loop over it holds it, and nothing else does.
        if self._call is not None and self._messages is None:
            self._messages = self._call.__aiter__()
        return self

    async def __anext__(self) -> Any:
        while True:
            call, messages = self._call, self._messages
            try:
                if messages is None:
                    call = await self._underlying()
                    messages = self._messages = call.__aiter__()
                message = await messages.__anext__()
            except AioRpcError as exc:
                if self._ends(call, exc):
                    raise self._error(exc) from None
            except asyncio.CancelledError:
                self.cancel()
                raise
            else:
                self._commit()
                return message

    async def read(self) -> Any:
        while True:
            call = self._call
            try:
                if call is None:
                    call = await self._underlying()
                message = await call.read()
            except AioRpcError as exc:
                if self._ends(call, exc):
                    raise self._error(exc) from None
            except asyncio.CancelledError:
                self.cancel()
                raise
            else:
                self._commit()
                return message


class _StreamRequest(_Dropped):
    _writes: Writes | None = None

    def write_to(self, writes: Writes) -> None:
        """Requests go through interceptors, which read them from the iterator `writes`."""
        self._writes = writes
        self.add_done_callback(writes.end)

    async def write(self, request: Any) -> None:
        while True:
            call = self._call
            try:
                if self._writes is not None:
                    await self._writes.write(request)
                    return
                if call is None:
                    call = await self._underlying()
                    if isinstance(call, Ended):  # it never began: say why, and not that it is over
                        await call
                await call.write(request)
            except AioRpcError as exc:
                if self._ends(call, exc):
                    raise self._error(exc) from None
            except asyncio.CancelledError:
                self.cancel()
                raise
            else:
                self._commit()
                return

    async def done_writing(self) -> None:
        self._commit()  # another attempt would have to be told as well
        try:
            if self._writes is not None:
                await self._writes.close()
                return
            await (await self._underlying()).done_writing()
        except AioRpcError as exc:
            raise self._error(exc) from None
        except asyncio.CancelledError:
            self.cancel()
            raise


# The abstract bases come last: they declare every method, and Python must find ours first.


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response. If dropped before it is awaited, it runs on, as in grpc.aio."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses; cancelled when nobody holds it any more."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response; cancelled when nobody holds it any more."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """Streams both ways; cancelled when nobody holds it any more."""
