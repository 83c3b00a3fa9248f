"""A bare channel over transport `fast`, with as much of `grpc.aio.Channel` as the tests of servers use.

It stands where a grpc.aio channel stands otherwise: nothing of pymicro's calling end but the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc.aio import EOF, AioRpcError, Metadata

from pymicro.calling.connections.fast import FastTransport
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.nodes.node import Node
from pymicro.rpc.wire.shape import Shape
from pymicro.settings.config import Config

__all__ = ["FastChannel"]


def _as_it_is(message: Any) -> Any:
    return message


class FastChannel:
    """See `grpc.aio.Channel`."""

    def __init__(self, address: str, options: Iterable[tuple[str, Any]] = ()) -> None:
        # Servers tell pymicro's clients from others by this.
        options = (("grpc.primary_user_agent", "bare"), *options)
        self._connection = FastTransport().open(
            Node("", address, "zoo"), Config(), ChannelOptions(options, None)
        )
        self._calls: set[FastChannelCall] = set()

    async def __aenter__(self) -> FastChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in list(self._calls):
            call.cancel()
        await self._connection.close()
        await asyncio.gather(*(call.sent() for call in self._calls))

    def _multicallable(self, shape: Shape) -> Callable[..., Any]:
        def made(
            path: str | bytes, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
        ) -> Any:
            name = path if isinstance(path, str) else path.decode()
            method = Method(shape, name, request_serializer, response_deserializer, False, shared=False)
            start = self._connection.bind(method)

            def begin(
                request: Any = None,
                *,
                timeout: float | None = None,
                metadata: Any = None,
                compression: Any = None,
                **_: Any,
            ) -> FastChannelCall:
                serialize = request_serializer or _as_it_is
                one = None if shape.request_streaming else serialize(request)
                call = start(
                    one,
                    timeout=timeout,
                    metadata=tuple(metadata or ()),
                    credentials=None,
                    compression=compression,
                )
                many = request if shape.request_streaming else None
                made = FastChannelCall(self, shape, call, serialize, response_deserializer or _as_it_is, many)
                self._calls.add(made)
                return made

            return begin

        return made

    @property
    def unary_unary(self) -> Any:
        return self._multicallable(Shape.UNARY_UNARY)

    @property
    def unary_stream(self) -> Any:
        return self._multicallable(Shape.UNARY_STREAM)

    @property
    def stream_unary(self) -> Any:
        return self._multicallable(Shape.STREAM_UNARY)

    @property
    def stream_stream(self) -> Any:
        return self._multicallable(Shape.STREAM_STREAM)


class FastChannelCall:
    """The caller's end, of every shape."""

    def __init__(
        self, channel: FastChannel, shape: Shape, call: Any, serialize: Any, deserialize: Any, requests: Any
    ) -> None:
        self._channel, self._shape, self._call = channel, shape, call
        self._serialize, self._deserialize = serialize, deserialize
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[None] | None = None
        call.add_done_callback(self._over)
        if requests is not None:
            self._sending = asyncio.get_running_loop().create_task(self._send(requests))

    def _over(self, _: Any) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
        if self._sending is not None:
            self._sending.cancel()

    async def sent(self) -> None:
        """Its requests were sent, or are no longer."""
        if self._sending is not None:
            await asyncio.wait({self._sending})

    async def _send(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            await self.done_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended, and its reader is told
        except Exception:
            self.cancel()
            raise

    async def write(self, request: Any) -> None:
        try:
            await self._call.write(self._serialize(request))
        except AioRpcError:
            await self._fail()

    async def done_writing(self) -> None:
        await self._call.done_writing()

    async def read(self) -> Any:
        try:
            return self._deserialize(await self._call.__anext__())
        except StopAsyncIteration:
            return EOF
        except AioRpcError:
            return await self._fail()

    async def __aiter__(self) -> Any:
        try:
            while (message := await self.read()) is not EOF:
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise

    def __await__(self) -> Any:
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            return self._deserialize(await self._call)
        except AioRpcError:
            return await self._fail()

    async def _fail(self) -> Any:
        status = self._call.status()
        raise AioRpcError(
            status.code, status.initial, status.trailing, status.details, status.debug
        ) from None

    def cancel(self) -> bool:
        cancelled: bool = self._call.cancel()
        return cancelled

    def done(self) -> bool:
        return self._call.code is not None

    def cancelled(self) -> bool:
        return bool(self._call.ended_here)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    async def _status(self) -> Any:
        await asyncio.shield(self._ended)
        return self._call.status()

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = (await self._status()).code
        return code

    async def details(self) -> str:
        return str((await self._status()).details)

    async def debug_error_string(self) -> str:
        return str((await self._status()).debug)

    async def trailing_metadata(self) -> Metadata:
        return (await self._status()).trailing

    def initial_metadata(self) -> Awaitable[Metadata]:
        return self._call.initial_metadata()  # type: ignore[no-any-return]

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()
