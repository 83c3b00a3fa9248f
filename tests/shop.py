"""A service of four call shapes on a bare grpc.aio server, made from proto files at run time.

async with ShopServer() as server:
    server.address
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from pymicro.rpc.schema import Schema
from tests.described import Reflection

PROTOS = Path(__file__).parent / "rpc" / "schema" / "protos"
SERVICES = ("shop.v1.Shop", "shop.v1.Warehouse")
V1, V1ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"


@functools.cache
def shop_files() -> tuple[FileDescriptorProto, ...]:
    """The shop's proto files and all they import."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set.pb"
        names = ["shop/v1/shop.proto", "shop/v1/gift.proto"]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_imports"]
        subprocess.run([*command, f"--descriptor_set_out={output}", *names], check=True)
        return tuple(FileDescriptorSet.FromString(output.read_bytes()).file)


def shop_schema() -> Schema:
    schema = Schema()
    schema.add(shop_files())
    return schema


class ShopServer:
    """The shop, with the versions of reflection that are asked for, or one (v1) that has the given files.

    Attributes:
        address: Where it listens.
        metadata: What each call came with.
        cancelled: Set when a call was cancelled by its caller.
        more: A `Track` for `wait` goes on when it is set.
    """

    def __init__(
        self,
        reflection: Sequence[str] = (V1ALPHA,),
        services: Sequence[str] = SERVICES,
        *,
        described: Iterable[FileDescriptorProto] = (),
    ) -> None:
        self.schema = shop_schema()
        self.address = ""
        self.metadata: list[list[tuple[str, Any]]] = []
        self.cancelled = asyncio.Event()
        self.more = asyncio.Event()
        self.asked: list[str] = []
        self._reflection = reflection
        self._described = Reflection(described, services) if described else None
        self._services = services
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        if self._described is not None:
            self._server.add_generic_rpc_handlers((self._described.handlers(),))
        else:
            for version in self._reflection:
                self._add_reflection(version)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("shop.v1.Shop", self._handlers()),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop(0)

    def _add_reflection(self, version: str) -> None:
        pool = self.schema.message_class("shop.v1.Order").DESCRIPTOR.file.pool
        servicer = ReflectionServicer(self._services, pool=pool)

        async def ask(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            self.asked.append(version)
            async for answer in servicer.ServerReflectionInfo(requests, context):
                yield answer

        handler = grpc.stream_stream_rpc_method_handler(
            ask,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(version, {"ServerReflectionInfo": handler}),)
        )

    def _handlers(self) -> dict[str, Any]:
        makers = {
            "Buy": (grpc.unary_unary_rpc_method_handler, self.buy),
            "Track": (grpc.unary_stream_rpc_method_handler, self.track),
            "Collect": (grpc.stream_unary_rpc_method_handler, self.collect),
            "Haggle": (grpc.stream_stream_rpc_method_handler, self.haggle),
            "Find": (grpc.unary_unary_rpc_method_handler, self.find),
        }
        handlers = {}
        for name, (make, function) in makers.items():
            method = self.schema.find_method(f"shop.v1.Shop/{name}")
            handlers[name] = make(
                function,
                request_deserializer=method.request.FromString,
                response_serializer=method.response.SerializeToString,
            )
        return handlers

    def receipt(self, text: str, **fields: Any) -> Any:
        return self.schema.message_class("shop.v1.Receipt")(text=text, **fields)

    async def buy(self, order: Any, context: Any) -> Any:
        """What is done depends on the item's name."""
        self.metadata.append(list(context.invocation_metadata()))
        if order.item_name == "slow":
            try:
                self.more.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if order.item_name == "nothing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such item\x1b[31m")
        if order.item_name == "rich":
            await self._abort_richly(context)
        if order.item_name == "teapot":  # as a go-micro server says it
            text = '{"id":"shop","code":418,"detail":"no coffee\\u001b[31m","status":"I\'m a teapot"}'
            await context.abort(grpc.StatusCode.UNKNOWN, text)
        if order.item_name == "sold":
            text = '{"id":"","code":429,"detail":"come back","status":"Too Many Requests"}'
            await context.abort(grpc.StatusCode.UNKNOWN, text)
        if order.item_name == "gift":
            gift = self.schema.message_class("shop.v1.Gift")(**{"from": "Bob"})
            known = any_pb2.Any(type_url="x/shop.v1.Gift", value=gift.SerializeToString())
            unknown = any_pb2.Any(type_url="x/nobody.knows.It", value=b"\x01\x02")
            packed = any_pb2.Any(type_url="x/google.protobuf.Any", value=unknown.SerializeToString())
            return self._parse([known, unknown, packed])
        await context.send_initial_metadata((("shelf", "7"), ("stamp-bin", b"\x00\xff")))
        context.set_trailing_metadata((("till", "2"),))
        return self.receipt(f"{order.amount} × {order.item_name}", number=order.amount)

    def _parse(self, notes: list[any_pb2.Any]) -> Any:
        receipt = self.receipt("wrapped")
        for note in notes:
            receipt.notes.add(type_url=note.type_url, value=note.value)
        return receipt

    async def _abort_richly(self, context: Any) -> None:
        info = error_details_pb2.ErrorInfo(reason="SOLD_OUT", domain="shop")
        status = status_pb2.Status(code=9, message="sold out")
        status.details.add().Pack(info)
        gift = self.schema.message_class("shop.v1.Gift")(**{"from": "Eve"})
        status.details.add(type_url="x/shop.v1.Gift", value=gift.SerializeToString())
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            "sold out",
            (("grpc-status-details-bin", status.SerializeToString()),),
        )

    async def track(self, order: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(order.amount):
            # A length of time past ten thousand years has no JSON form.
            odd = {"took": {"seconds": 1 << 60}} if order.item_name == "odd" and number == 1 else {}
            yield self.receipt(order.item_name, number=number + 1, **odd)
            if order.item_name == "wait":
                await self.more.wait()

    async def collect(self, orders: AsyncIterator[Any], context: Any) -> Any:
        return self.receipt(", ".join([order.item_name async for order in orders]))

    async def haggle(self, orders: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for order in orders:
            if order.item_name == "enough":
                return
            yield self.receipt(f"not for {order.amount}")

    async def find(self, name: Any, context: Any) -> Any:
        return self.receipt(f"found {name.value}")
