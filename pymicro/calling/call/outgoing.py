"""Client interceptors of our own form (see `pymicro.rpc.interceptors`).

A client interceptor may call `proceed()` again if the response is one message:
each time makes another call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc.aio import AioRpcError

from pymicro.base.errors import PymicroError
from pymicro.calling.call.ended import Ended
from pymicro.rpc.interceptors import Interceptor, Mapper, apply, mapped
from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["OutgoingCall", "intercept"]


class OutgoingCall:
    """A call as a client interceptor sees it, and may change it before `proceed()`.

    Attributes:
        service: The name that is looked up.
        method: `/package.Service/Method`.
        shape: Which sides stream.
        metadata: The request's metadata (`grpc.aio.Metadata`); add to it or replace it.
        timeout: Seconds for the whole call; None for no limit.
        credentials: Call credentials, if any.
        wait_for_ready: Whether to wait for a node if there is none.
    """

    def __init__(self, called: Called, details: grpc.aio.ClientCallDetails, request: Any) -> None:
        self.service = called.service
        self.method = called.path
        self.shape: Shape = called.shape
        self.metadata = grpc.aio.Metadata(*(details.metadata or ()))
        self.timeout = details.timeout
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self._request = request
        self._request_maps: list[Mapper] = []
        self._response_maps: list[Mapper] = []

    def map_requests(self, mapper: Mapper) -> None:
        """See or replace every request: `mapper(message) -> message`, or a coroutine function."""
        self._request_maps.append(mapper)

    def map_responses(self, mapper: Mapper) -> None:
        """See or replace every response: `mapper(message) -> message`, or a coroutine function."""
        self._response_maps.append(mapper)

    def _details(self) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            self.method.encode(),  # type: ignore[arg-type] # these are bytes, as in grpc.aio
            self.timeout,
            self.metadata,
            self.credentials,
            self.wait_for_ready,
        )

    async def _requests(self) -> Any:
        if not self._request_maps:
            return self._request
        if not self.shape.request_streaming:
            return await apply(self._request_maps, self._request)
        return mapped(tuple(self._request_maps), _asynchronous(self._request))


async def _asynchronous(messages: Any) -> AsyncIterator[Any]:
    """A stub takes plain iterators of requests as well."""
    if hasattr(messages, "__aiter__"):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message


async def intercept(
    interceptor: Interceptor,
    called: Called,
    proceed: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
    details: grpc.aio.ClientCallDetails,
    request: Any,
) -> Any:
    """Run one interceptor around the rest of the chain; returns once the call has started."""
    call = OutgoingCall(called, details, request)
    loop = asyncio.get_running_loop()
    started: asyncio.Future[Any] = loop.create_future()

    async def go() -> Any:
        if call.shape.response_streaming and started.done():
            raise PymicroError("proceed() can be called once only where responses are a stream")
        inner = await proceed(call._details(), await call._requests())
        if not started.done():
            started.set_result(inner)
        try:
            if not call.shape.response_streaming:
                return await apply(call._response_maps, await inner)
            await _raise_for_status(inner)
        except asyncio.CancelledError:
            inner.cancel()
            raise
        return None

    running = called.tasks.start(_run(interceptor, call, go), f"interceptor of {called.path}")
    try:
        await asyncio.wait({started, running}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        raise
    inner = started.result() if started.done() else Ended()
    return _OuterCall(inner, running, call._response_maps)


async def _run(
    interceptor: Interceptor,
    call: OutgoingCall,
    go: Callable[[], Awaitable[Any]],
) -> Ended:
    # The outcome is a value: an exception of an interceptor must not end its siblings.
    try:
        return Ended(response=await interceptor(call, go))
    except asyncio.CancelledError:
        raise
    except Exception as exc:
        return Ended(exc)


async def _raise_for_status(call: Any) -> None:
    """Wait for the end of a call, and raise its error if it has one."""
    if await call.code() is not grpc.StatusCode.OK:
        await call.wait_for_connection()  # on a call that has ended it raises what ended the call


class _OuterCall:
    """The call as seen outside the interceptor: it ends when the interceptor ends."""

    def __init__(self, inner: Any, running: asyncio.Task[Ended], maps: list[Mapper]) -> None:
        self._inner = inner
        self._running = running
        self._maps = maps

    async def _end(self) -> Ended:
        try:
            return await asyncio.shield(self._running)
        except asyncio.CancelledError:
            if self._running.cancelled():
                return Ended(asyncio.CancelledError())
            raise

    def _ended(self) -> Ended:
        if self._running.cancelled():
            return Ended(asyncio.CancelledError())
        return self._running.result()

    def cancel(self) -> bool:
        if self._running.done():
            return False
        self._inner.cancel()
        self._running.cancel()
        return True

    def cancelled(self) -> bool:
        return self._running.done() and self._ended().cancelled()

    def done(self) -> bool:
        return self._running.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.done():
            callback(self)
        else:
            self._running.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> float | None:
        return self._inner.time_remaining()  # type: ignore[no-any-return]

    async def code(self) -> grpc.StatusCode:
        return await (await self._end()).code()

    async def details(self) -> str:
        return await (await self._end()).details()

    async def debug_error_string(self) -> str:
        return await (await self._end()).debug_error_string()

    async def initial_metadata(self) -> Any:
        return await self._inner.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._inner.trailing_metadata()

    async def wait_for_connection(self) -> None:
        if self._running.done():
            await self._ended()
        await self._inner.wait_for_connection()

    def __await__(self) -> Generator[Any, None, Any]:
        ended = yield from self._end().__await__()
        return (yield from ended.__await__())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses()

    async def _responses(self) -> AsyncIterator[Any]:
        try:
            async for message in self._inner:
                yield await apply(self._maps, message)
        except AioRpcError:
            pass  # the interceptor has it, and decides what becomes of it
        await (await self._end())

    async def read(self) -> Any:
        try:
            message = await self._inner.read()
        except AioRpcError:
            message = grpc.aio.EOF
        if message is grpc.aio.EOF:
            await (await self._end())
            return message
        return await apply(self._maps, message)

    async def write(self, request: Any) -> None:
        await self._inner.write(request)

    async def done_writing(self) -> None:
        await self._inner.done_writing()
