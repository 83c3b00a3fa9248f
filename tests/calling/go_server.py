"""A server that answers as one of go-micro 1.18 does (its `server/grpc`): the request says how.

Requests and responses are bytes. A request `404 no such order` is answered with the error
`errors.New("orders", "no such order", 404)`, `plain …` with a Go `error` of that text, any
other with itself. A stream is answered, or fails, by its last request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import grpc
import grpc.aio

from pymicro import Client, MemoryRegistry, Node

from .backends import connected

_Code = grpc.StatusCode

# server/grpc/error.go, microError: every other number is UNKNOWN.
TABLE = {
    400: _Code.INVALID_ARGUMENT,
    401: _Code.UNAUTHENTICATED,
    403: _Code.PERMISSION_DENIED,
    404: _Code.NOT_FOUND,
    408: _Code.DEADLINE_EXCEEDED,
    409: _Code.ALREADY_EXISTS,
    412: _Code.FAILED_PRECONDITION,
    500: _Code.INTERNAL,
    501: _Code.UNIMPLEMENTED,
    503: _Code.UNAVAILABLE,
}
SHAPES = {
    "Call": "unary_unary",
    "List": "unary_stream",
    "Put": "stream_unary",
    "Chat": "stream_stream",
}


def text_of(code: int, detail: str, ident: str = "orders") -> str:
    """An `errors.Error` as Go's encoder writes it: `http.StatusText` is empty where there is none."""
    known = {status.value: status.phrase for status in HTTPStatus}
    error = {"id": ident, "code": code, "detail": detail, "status": known.get(code, "")}
    return json.dumps(error, separators=(",", ":"))


@dataclass
class GoServer(grpc.GenericRpcHandler):
    """One node of `orders`.

    Attributes:
        metadata: What each call brought along.
    """

    node: Node = field(default_factory=lambda: Node("", ""))
    metadata: list[dict[str, Any]] = field(default_factory=list)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        word, _, detail = request.decode().partition(" ")
        if word == "plain":
            await context.abort(_Code.UNKNOWN, detail)
        if word.isdigit():
            await context.abort(TABLE.get(int(word), _Code.UNKNOWN), text_of(int(word), detail))
        return request

    async def call(self, request: bytes, context: Any) -> bytes:
        return await self._answer(request, context)

    async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self._answer(request, context)

    async def put(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        last = [request async for request in requests][-1]
        return await self._answer(last, context)

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._answer(request, context)

    def service(self, handler_call_details: Any) -> Any:
        """Routes as `util/grpc.ServiceMethod`: by the last dot segment of the service."""
        _, service, method = handler_call_details.method.split("/")
        self.metadata.append(dict(handler_call_details.invocation_metadata))
        service = service.rpartition(".")[2]
        if service == "Orders" and method in SHAPES:
            make: Callable[..., Any] = getattr(grpc, f"{SHAPES[method]}_rpc_method_handler")
            return make(getattr(self, method.lower()))
        unknown = service if service != "Orders" else f"{service}.{method}"

        async def refuse(_: bytes, context: Any) -> None:
            await context.abort(_Code.UNIMPLEMENTED, f"unknown service {unknown}")

        return grpc.unary_unary_rpc_method_handler(refuse)


@asynccontextmanager
async def go_servers(count: int = 1, **settings: Any) -> AsyncIterator[tuple[Client, list[GoServer]]]:
    """`count` such nodes with the metadata that go-micro writes, and a client that finds them."""
    registry = MemoryRegistry()
    servers = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(registry)
        for number in range(count):
            one = GoServer()
            server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
            server.add_generic_rpc_handlers((one,))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            speaks = dict.fromkeys(("protocol", "server", "transport"), "grpc")
            one.node = Node(
                f"orders-{number}", f"127.0.0.1:{port}", "orders", "1", {**speaks, "broker": "http"}
            )
            await registry.register(one.node)
            servers.append(one)
        client = await stack.enter_async_context(Client(registry=registry, **settings))
        # A call is tried again on another node that is connected, and on none that is not yet.
        await connected(client, count, "orders")
        yield client, servers
