"""A bare server over transport `fast`, with those of grpc.aio's methods that the tests of calls use.

It stands where a grpc.aio server stands otherwise: nothing of pymicro's serving end but the transport, so
handlers of generated servicers may answer with whatever trailers they like.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from pymicro.rpc.grpcio import CallerGone
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.fast import FastServerTransport
from pymicro.serving.transport import CallDetails, ServedCall, ServedMethod
from pymicro.settings.config import Config

__all__ = ["FastServer"]


class FastServer:
    """See `grpc.aio.Server`."""

    def __init__(self, options: tuple[tuple[str, Any], ...] = ()) -> None:
        self._transport = FastServerTransport(
            Config().replace("the tests", transport="fast"), (*options, ("grpc.so_reuseport", 1))
        )
        self._generic: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, Any] = {}
        self._held: list[tuple[socket.socket, str]] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        self._methods.update({f"/{service}/{name}": method for name, method in methods.items()})

    def add_insecure_port(self, address: str) -> int:
        """Hold a port, which `start` listens on."""
        host, _, port = address.rpartition(":")
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, int(port)))
        self._held.append((held, host))
        return int(held.getsockname()[1])

    async def start(self) -> None:
        for held, host in self._held:
            with held:
                await self._transport.listen(f"{host}:{held.getsockname()[1]}", self)
        await self._transport.start(_raise)

    async def stop(self, grace: float | None) -> None:
        await self._transport.stop(grace)

    def find(self, details: CallDetails) -> ServedMethod:
        """See `ServedMethods`."""
        handler = self._methods.get(details.method)
        for generic in self._generic:
            handler = handler or generic.service(details)  # type: ignore[arg-type]
        return _served(handler) if handler is not None else ServedMethod(Shape.STREAM_STREAM, _missing)


def _raise(error: BaseException) -> None:
    raise error


async def _missing(_: Any, served: ServedCall) -> None:
    await served.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())


def _served(handler: Any) -> ServedMethod:
    shape = Shape.of(handler.request_streaming, handler.response_streaming)

    async def run(request: bytes | None, served: ServedCall) -> bytes | None:
        asked = _requests(handler, served) if request is None else _read(handler, request)
        try:
            if not handler.response_streaming:
                behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
                return _written(handler, await behaviour(asked, served))
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            async for answer in behaviour(asked, served):
                await served.write(_written(handler, answer))
        except (grpc.aio.BaseError, CallerGone, asyncio.CancelledError):
            raise
        except Exception as exc:
            await served.abort(grpc.StatusCode.UNKNOWN, f"Unexpected {type(exc)}: {exc}", ())
        return None

    return ServedMethod(shape, run)


async def _requests(handler: Any, served: ServedCall) -> AsyncIterator[Any]:
    while (request := await served.read()) is not grpc.aio.EOF:
        yield _read(handler, request)


def _read(handler: Any, request: bytes) -> Any:
    return handler.request_deserializer(request) if handler.request_deserializer else request


def _written(handler: Any, answer: Any) -> bytes:
    made: bytes = handler.response_serializer(answer) if handler.response_serializer else answer
    return made
