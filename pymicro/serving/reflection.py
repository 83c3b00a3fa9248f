"""Server reflection: v1 and v1alpha, which differ only in the name.

grpcio-reflection makes the answers. It ships v1alpha only. We make v1's descriptor
from that at run time, in a pool of its own, so that a tool that looks up
`grpc.reflection.v1.ServerReflection` finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

from pymicro.rpc.wire.shape import Shape
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers.inspection import place_of_function
from pymicro.serving.handlers.types import Rpc, RpcHandler, Style

__all__ = ["reflection_handlers"]

T = TypeVar("T")

_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"


def reflection_handlers(services: Iterable[ServiceDescriptor]) -> list[RpcHandler]:
    """The two reflection services, describing `services` and themselves."""
    described = list(services)
    names = {service.full_name for service in described}
    names |= {f"{_ALPHA}.ServerReflection", f"{_V1}.ServerReflection"}
    pools = _Pools([service.file.pool for service in described])
    answers = reflection.aio.ReflectionServicer(sorted(names), pool=pools)

    async def server_reflection_info(requests: AsyncIterator[Any], call: CallContext) -> AsyncIterator[Any]:
        async for response in answers.ServerReflectionInfo(_until_draining(requests, call), call):
            yield response

    # One function serves both names: the messages of v1 have v1alpha's bytes.
    return [
        RpcHandler(
            rpc=Rpc(
                path=f"/{package}.ServerReflection/ServerReflectionInfo",
                shape=Shape.STREAM_STREAM,
                request_type=reflection_pb2.ServerReflectionRequest,
                response_type=reflection_pb2.ServerReflectionResponse,
            ),
            style=Style.STREAM,
            function=server_reflection_info,
            takes_context=True,
            where=place_of_function(server_reflection_info),
            label="server reflection",
            deserialize=reflection_pb2.ServerReflectionRequest.FromString,
            serialize=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        for package in (_ALPHA, _V1)
    ]


async def _until_draining(requests: AsyncIterator[Any], call: CallContext) -> AsyncIterator[Any]:
    """The requests, until they end or the server drains: an idle stream must not delay the drain."""
    draining = asyncio.create_task(call.draining.wait(), name="pymicro-reflection-draining")
    try:
        while not call.draining:
            request = asyncio.create_task(_next(requests), name="pymicro-reflection-read")
            try:
                await asyncio.wait({request, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    return
                message = request.result()
            finally:
                await _stop(request)
            if message is None:
                return
            yield message
    finally:
        await _stop(draining)


async def _next(messages: AsyncIterator[Any]) -> Any:
    return await anext(messages, None)


async def _stop(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


class _Pools:
    """Several descriptor pools that look like one to grpcio-reflection's servicer."""

    def __init__(self, pools: Iterable[Any]) -> None:
        candidates = [descriptor_pool.Default(), *pools, _v1_pool()]
        self._pools = [pool for index, pool in enumerate(candidates) if pool not in candidates[:index]]

    def FindFileByName(self, name: str) -> Any:
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        try:
            return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))
        except KeyError:
            # protobuf's pools do not count methods among the symbols; reflection does.
            return self._first(lambda pool: pool.FindMethodByName(symbol)).containing_service.file

    def FindMessageTypeByName(self, name: str) -> Any:
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        return message.file.pool.FindAllExtensions(message)

    def _first(self, find: Callable[[Any], T]) -> T:
        for pool in self._pools:
            try:
                return find(pool)
            except KeyError:
                continue
        raise KeyError("in no descriptor pool")


@cache
def _v1_pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.ClearField("options")  # they name v1alpha's packages in other languages
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA, _V1)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, _V1)
            method.output_type = method.output_type.replace(_ALPHA, _V1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
