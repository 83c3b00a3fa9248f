"""Nodes that refuse, fail or answer as they are told: bytes in, bytes out, all four shapes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from pymicro import Client, MemoryRegistry, Node

from .backends import connected, make_server

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NOT_STARTED = (("pymicro-not-started", "1"),)


@dataclass
class Refusal:
    """How a node fails its calls.

    Attributes:
        after: Responses of a stream before it fails.
    """

    code: grpc.StatusCode = UNAVAILABLE
    trailers: tuple[tuple[str, str], ...] = ()
    after: int = 0


@dataclass
class Nodes:
    """What all nodes of a test saw, in the order in which it happened.

    Attributes:
        refuse: How a call is refused: given the number of calls before it.
        ran: Which node ran each call.
        requests: What it was sent.
    """

    refuse: Callable[[int], Refusal | None] = lambda _: None
    client: Any = None
    nodes: list[Node] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    remaining: list[float | None] = field(default_factory=list)
    trailers: tuple[tuple[str, str], ...] = ()
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def method(self, shape: str = "unary_unary", path: str = "/t.T/Get", **channel: Any) -> Any:
        made = self.client.channel("t", **channel)
        return getattr(made, shape)(path)

    async def _begin(self, node: Node, context: Any) -> Refusal | None:
        number = len(self.ran)
        self.ran.append(node.id)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        self.arrived.set()
        refusal = self.refuse(number)
        if refusal is not None and not refusal.after:
            await context.abort(refusal.code, f"refused by {node.id}", refusal.trailers)
        context.set_trailing_metadata((*self.trailers, ("served-by", node.id)))
        return refusal

    def handler(self, node: Node) -> grpc.GenericRpcHandler:
        async def one(request: bytes, context: Any) -> bytes:
            await self._begin(node, context)
            self.requests.append(request)
            return node.id.encode()

        async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
            refusal = await self._begin(node, context)
            self.requests.append(request)
            for number in range(3):
                if refusal is not None and number == refusal.after:
                    await context.abort(refusal.code, f"refused by {node.id}", refusal.trailers)
                yield f"{node.id} {number}".encode()

        async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
            await self._begin(node, context)
            self.requests += [request async for request in requests]
            return node.id.encode()

        async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            await self._begin(node, context)
            async for request in requests:
                self.requests.append(request)
                yield request.upper()

        return grpc.method_handlers_generic_handler(
            "t.T",
            {
                "Get": grpc.unary_unary_rpc_method_handler(one),
                "Read": grpc.unary_unary_rpc_method_handler(one),
                "List": grpc.unary_stream_rpc_method_handler(many),
                "Put": grpc.stream_unary_rpc_method_handler(collect),
                "Chat": grpc.stream_stream_rpc_method_handler(chat),
            },
        )


@asynccontextmanager
async def flaky(count: int = 3, **settings: Any) -> AsyncIterator[Nodes]:
    """`count` nodes, taken in turn, and a client with connections to all of them."""
    nodes = Nodes()
    registry = MemoryRegistry()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(registry)
        for _ in range(count):
            server = make_server()
            port = server.add_insecure_port("127.0.0.1:0")
            node = Node(f"n{port}", f"127.0.0.1:{port}", "t")
            server.add_generic_rpc_handlers((nodes.handler(node),))
            await server.start()
            stack.push_async_callback(server.stop, None)
            await registry.register(node)
            nodes.nodes.append(node)
        # Refusals are what is tested here; they must eject nobody.
        settings = {"balancer": "round_robin", "outlier_ejection": "off", **settings}
        nodes.client = await stack.enter_async_context(Client(registry=registry, **settings))
        await connected(nodes.client, count, "t")
        yield nodes
