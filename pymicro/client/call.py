"""What a stub's method returns: grpc.aio's call objects over a picked node.

Each holds the real call and delegates to it. It adds no Task and no Future of
its own unless the call has to wait for a node or runs through interceptors
(`Deferred`), and maps errors to `pymicro.status`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Self

import grpc
import grpc.aio
from grpc.aio import AioRpcError

from pymicro.client.deferred import Deferred
from pymicro.client.ended import Ended
from pymicro.client.writes import Writes
from pymicro.node import Node
from pymicro.status import RpcError
from pymicro.wire.status import from_aio

__all__ = ["StreamStreamCall", "StreamUnaryCall", "UnaryStreamCall", "UnaryUnaryCall"]

DoneCallback = Callable[[Any], None]


class _Call:
    """What all four shapes have in common.

    Args:
        callee: Service and method, for errors.
        call: The real call; None if it is deferred.
        node: The node it went to; None if it is not known (yet).
    """

    _call: Any = None
    _deferred: Deferred | None = None
    _callbacks: list[DoneCallback] | None = None

    def __init__(self, callee: str, call: Any = None, node: Node | None = None) -> None:
        self._callee = callee
        self._call = call
        self.node = node

    # Beginning

    def begun(self, call: Any, node: Node | None) -> None:
        """The call underneath has started."""
        self._call = call
        self.node = node
        if self._callbacks:
            call.add_done_callback(self._fire_later())

    async def _underlying(self) -> Any:
        if self._call is None:
            assert self._deferred is not None, "neither started nor deferred"
            return await self._deferred.wait()
        return self._call

    def _error(self, exc: AioRpcError) -> RpcError:
        if not isinstance(exc, RpcError):
            return from_aio(exc, node=self.node, callee=self._callee)
        if exc.callee is None:  # made on this side, before there was a node
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
                self._call.add_done_callback(self._fire_later())

    def _fire_later(self) -> DoneCallback:
        return lambda _: self._fire()

    def _fire(self) -> None:
        callbacks, self._callbacks = self._callbacks or (), None
        for callback in callbacks:
            callback(self)

    # grpc.aio.Call

    async def initial_metadata(self) -> Any:
        return await (await self._underlying()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await (await self._underlying()).trailing_metadata()

    async def code(self) -> Any:
        return await (await self._underlying()).code()

    async def details(self) -> Any:
        return await (await self._underlying()).details()

    async def debug_error_string(self) -> Any:
        return await (await self._underlying()).debug_error_string()

    async def wait_for_connection(self) -> None:
        try:
            await (await self._underlying()).wait_for_connection()
        except AioRpcError as exc:
            raise self._error(exc) from None

    def __repr__(self) -> str:
        state = "waiting" if self._call is None else "done" if self.done() else "in progress"
        where = f" on {self.node.address}" if self.node else ""
        return f"<{type(self).__name__} {self._callee}{where}, {state}>"

    __str__ = __repr__


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        call = self._call
        try:
            if call is None:
                call = yield from self._underlying().__await__()
            return (yield from call.__await__())
        except AioRpcError as exc:
            raise self._error(exc) from None
        except BaseException:
            # Cancelled while it waited; or the request could not be serialized, of
            # which grpc.aio makes no status: the call must end all the same.
            if not self.done():
                self.cancel()
            raise


class _Dropped(_Call):
    """A call that ends when nobody holds it any more.

    grpc.aio lets a stream whose reader has gone away run for ever. So nothing
    that lives as long as the real call may hold this object.
    """

    def __init__(self, callee: str, call: Any = None, node: Node | None = None) -> None:
        super().__init__(callee, call, node)
        self._loop = asyncio.get_running_loop()

    def _fire_later(self) -> DoneCallback:
        reference = weakref.ref(self)

        def fire(_: Any) -> None:
            call = reference()
            if call is not None:
                call._fire()

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
            self._fire()
        else:  # collected in another thread, or while the loop is at rest
            self._loop.call_soon_threadsafe(held.cancel)


class _StreamResponse(_Dropped):
    _messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Self:
        # The call is its own iterator: a loop over it holds it, and nothing else does.
        if self._call is not None and self._messages is None:
            self._messages = self._call.__aiter__()
        return self

    async def __anext__(self) -> Any:
        messages = self._messages
        try:
            if messages is None:
                messages = self._messages = (await self._underlying()).__aiter__()
            return await messages.__anext__()
        except AioRpcError as exc:
            raise self._error(exc) from None
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def read(self) -> Any:
        try:
            call = self._call
            if call is None:
                call = await self._underlying()
            return await call.read()
        except AioRpcError as exc:
            raise self._error(exc) from None
        except asyncio.CancelledError:
            self.cancel()
            raise


class _StreamRequest(_Dropped):
    _writes: Writes | None = None

    def write_to(self, writes: Writes) -> None:
        """Requests go through interceptors: as an iterator, which `writes` is."""
        self._writes = writes
        self.add_done_callback(writes.end)

    async def write(self, request: Any) -> None:
        try:
            if self._writes is not None:
                await self._writes.write(request)
                return
            call = self._call
            if call is None:
                call = await self._underlying()
                if isinstance(call, Ended):  # it never began: say why, and not that it is over
                    await call
            await call.write(request)
        except AioRpcError as exc:
            raise self._error(exc) from None
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
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


# The abstract bases come last: they declare every method, and ours must be found first.


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response. Dropped without being awaited it runs on, as in grpc.aio."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses; cancelled when nobody holds it any more."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response; cancelled when nobody holds it any more."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """Streams both ways; cancelled when nobody holds it any more."""
