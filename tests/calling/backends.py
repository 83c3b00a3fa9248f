"""Plain grpc.aio servers for the client to call, and a registry that lists them.

With `--server-transport fast` they are bare ones over that transport.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Node
from tests.fakes.transport import Network
from tests.transports import ENDS

# Where servers listen and clients call; None for the machine's own network. The fixture `transport` sets it.
network: Network | None = None


def make_server(options: tuple[tuple[str, Any], ...] = ()) -> Any:
    """A server of the network of this test."""
    if network is not None:
        return network.server()
    if ENDS.server == "fast":
        from tests.calling.fast_server import FastServer  # pymicro-fast need not be there otherwise

        return FastServer(options)
    return grpc.aio.server(options=(("grpc.so_reuseport", 0), *options))


class Backend(rpc.GreeterServicer):
    """Answers, waits or fails by the name it is asked to greet; counts what it sees."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.cancelled = 0
        self.metadata: list[dict[str, Any]] = []
        self.remaining: list[float | None] = []
        self.release = asyncio.Event()
        self.changed = asyncio.Condition()
        self.server: Any = None
        self.node = Node("", "")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever a call begins or ends."""
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(condition)

    @asynccontextmanager
    async def _counted(self, context: Any) -> AsyncIterator[None]:
        self.calls += 1
        self.running += 1
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        await self._tell()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            await asyncio.shield(self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def SayHello(self, request: Any, context: Any) -> Any:
        async with self._counted(context):
            if request.name == "wait":
                await self.release.wait()
            if request.name == "fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "nobody of that name", (("why", "gone"),))
            await context.send_initial_metadata((("served-by", self.node.id),))
            context.set_trailing_metadata((("trailer", "yes"),))
            return pb.HelloReply(message=f"Hello {request.name}", address=self.node.address)

    async def CountDown(self, request: Any, context: Any) -> Any:
        async with self._counted(context):
            start = getattr(request, "from")
            for number in range(start, 0, -1):
                yield pb.CountDownReply(number=number)
            if start > 9000:  # and then never ends
                await self.release.wait()

    async def GreetAll(self, requests: Any, context: Any) -> Any:
        async with self._counted(context):
            names = []
            async for request in requests:
                names.append(request.name)
                if request.name == "fail":  # in the middle of the requests, once it is let
                    await self.release.wait()
                    await context.abort(grpc.StatusCode.NOT_FOUND, "nobody of that name")
            return pb.HelloReply(message=", ".join(names))

    async def Chat(self, requests: Any, context: Any) -> Any:
        async with self._counted(context):
            async for request in requests:
                yield pb.ChatMessage(text=request.text.upper())


@asynccontextmanager
async def backend(
    registry: MemoryRegistry | None = None,
    service: str = "greeter",
    *,
    address: str = "127.0.0.1:0",
    options: tuple[tuple[str, Any], ...] = (),
    **node: Any,
) -> AsyncIterator[Backend]:
    """A listening server, registered under `service` if a registry is given."""
    servicer = Backend()
    server = make_server(options)
    rpc.add_GreeterServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    host = address.rpartition(":")[0]
    servicer.server = server
    servicer.node = Node(f"n{port}", f"{host}:{port}", service, **node)
    if registry is not None:
        await registry.register(servicer.node)
    try:
        yield servicer
    finally:
        if registry is not None:
            await registry.deregister(servicer.node)
        await server.stop(None)


@asynccontextmanager
async def greeter(
    count: int = 1, **settings: Any
) -> AsyncIterator[tuple[Client, MemoryRegistry, list[Backend]]]:
    """A client and `count` backends that it finds through a memory registry."""
    registry = MemoryRegistry()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(registry)
        backends = [await stack.enter_async_context(backend(registry)) for _ in range(count)]
        client = await stack.enter_async_context(Client(registry=registry, **settings))
        yield client, registry, backends


async def connected(client: Client, count: int, service: str = "greeter") -> Any:
    """Wait until calls are spread over `count` nodes, which the balancer knows; gives the target."""
    target = client.channel(service).open()
    async with asyncio.timeout(10):
        # An update that is scheduled is what tells the balancer, up to 10 ms later.
        while target._scheduled or sum(item.pickable for item in target.channels.values()) != count:
            await target.change()
    return target


def stub(client: Client, service: str = "greeter", **keywords: Any) -> Any:
    return rpc.GreeterStub(client.channel(service, **keywords))


def hello(name: str = "Ada") -> Any:
    return pb.HelloRequest(name=name)


def count_down(start: int) -> Any:
    return pb.CountDownRequest(**{"from": start})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # that a call is done has no event
            await asyncio.sleep(0)


def in_flight(client: Client) -> int:
    """Calls the client counts as in flight, over all node channels."""
    channels = client._core._pool._channels
    return sum(channel.calls for channel in channels.values())
