"""Clients that have their nodes from a setting: a node that says it is not well gets no calls until it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health as foreign_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client
from pymicro.calling.connections import node_health
from tests.greeting import Greeter, greeter
from tests.serving.serving import eventually

ADA = pb.HelloRequest(name="Ada")


@contextlib.asynccontextmanager
async def calling(*addresses: str) -> AsyncIterator[Any]:
    """A stub of a client that knows these addresses, and tries each call once."""
    listed = [f"greeter={address}" for address in addresses]
    async with Client(registry="static", registry_address=listed, client_retries=0) as client:
        yield rpc.GreeterStub(client.channel("greeter"))


async def in_a_row(stub: Any, one: Greeter, times: int = 20) -> None:
    """Call until so many calls in a row went to this one."""
    async with asyncio.timeout(20):
        row = 0
        while row < times:
            known = one.served
            await stub.SayHello(ADA, timeout=10)
            row = row + 1 if one.served > known else 0


async def test_a_listed_node_that_is_not_well_gets_no_calls_until_it_is() -> None:
    (first, one), (second, other) = greeter(), greeter()
    async with first, second, calling(first.address, second.address) as stub:
        await eventually_called(stub, one, other)
        other.go.set()
        while not one.begun.is_set():
            slow = asyncio.ensure_future(_slow(stub))
            begun = asyncio.create_task(one.begun.wait())
            await asyncio.wait({slow, begun}, return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
        first.set_health(False, "database is down")
        await in_a_row(stub, other)
        known = one.served
        for _ in range(50):
            await stub.SayHello(ADA, timeout=10)
        assert one.served == known
        one.go.set()
        assert await slow == "Hello slow"

        # Where no node is well, a call that is served badly is better than none.
        second.set_health(False)
        await eventually_called(stub, one, other)
        first.set_health(True)
        await in_a_row(stub, one)
        second.set_health(True)
        await eventually_called(stub, one, other)


async def _slow(stub: Any) -> str:
    return str((await stub.SayHello(pb.HelloRequest(name="slow"), timeout=30)).message)


async def eventually_called(stub: Any, *each: Greeter) -> None:
    """Both get their share."""
    known = [one.served for one in each]
    async with asyncio.timeout(20):
        while any(one.served < before + 3 for one, before in zip(each, known, strict=True)):
            await stub.SayHello(ADA, timeout=10)


class Foreign:
    """A server of grpc.aio's own.

    Attributes:
        watched: How often its health was asked for.
    """

    def __init__(self, watch: Any = None) -> None:
        self.watched = 0
        self._watch = watch

    @contextlib.asynccontextmanager
    async def run(self, *, known_health: Any = None) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
        server = grpc.aio.server()
        rpc.add_GreeterServicer_to_server(_Servicer(), server)
        if known_health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(known_health, server)
        elif self._watch is not None:

            async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
                self.watched += 1
                async for answer in self._watch():
                    yield answer

            method = grpc.unary_stream_rpc_method_handler(watch)
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": method}),)
            )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", server
        finally:
            await server.stop(None)


class _Servicer(rpc.GreeterServicer):
    async def SayHello(self, request: Any, context: Any) -> Any:
        return pb.HelloReply(message=f"Hello {request.name}")


async def test_a_server_without_health_is_well_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_health, "AGAIN", 0.01)
    codes: Counter[Any] = Counter()
    follow = node_health.NodeHealths._follow

    async def counting(self: Any, *args: Any) -> Any:
        code = await follow(self, *args)
        codes[code] += 1
        return code

    monkeypatch.setattr(node_health.NodeHealths, "_follow", counting)
    async with Foreign().run() as (address, _), calling(address) as stub:
        await stub.SayHello(ADA, timeout=10)
        await eventually(lambda: bool(codes), "its health was asked for")
        for _ in range(20):
            await stub.SayHello(ADA, timeout=10)
    assert codes == {grpc.StatusCode.UNIMPLEMENTED: 1}


async def nonsense() -> AsyncIterator[bytes]:
    yield b"\xff\xff\xff"


async def unknown_words() -> AsyncIterator[bytes]:
    yield health_pb2.HealthCheckResponse(status=3).SerializeToString()
    yield b"\x08\x63"  # a status from the future


async def ends_at_once() -> AsyncIterator[bytes]:
    return
    yield b""


async def raises() -> AsyncIterator[bytes]:
    raise RuntimeError
    yield b""


@pytest.mark.parametrize("watch", [nonsense, unknown_words, ends_at_once, raises])
async def test_whatever_else_a_server_says_it_is_well_and_not_asked_all_the_time(
    monkeypatch: pytest.MonkeyPatch, watch: Any
) -> None:
    monkeypatch.setattr(node_health, "AGAIN", 0.05)
    monkeypatch.setattr(node_health, "LONGEST", 0.05)
    foreign = Foreign(watch)
    began = time.monotonic()
    async with foreign.run() as (address, _), calling(address) as stub:
        await stub.SayHello(ADA, timeout=10)
        await eventually(lambda: foreign.watched >= 3, "it is asked again, now and then")
        assert (await stub.SayHello(ADA, timeout=10)).message == "Hello Ada"
        assert foreign.watched <= (time.monotonic() - began) / 0.025 + 1


async def test_a_watch_does_not_hold_up_the_stop_of_a_foreign_server() -> None:
    known = foreign_health.aio.HealthServicer()
    await known.set("", health_pb2.HealthCheckResponse.SERVING)
    async with Foreign().run(known_health=known) as (address, server), calling(address) as stub:
        await stub.SayHello(ADA, timeout=10)
        await eventually(lambda: bool(known._server_watchers), "its health is watched")
        began = time.monotonic()
        await server.stop(30)
        assert time.monotonic() - began < 10


async def test_a_node_that_comes_back_as_another_process_is_asked_anew() -> None:
    (first, one), (second, other) = greeter(), greeter()
    async with second:
        async with first:
            address = first.address
            stubs = contextlib.AsyncExitStack()
            stub = await stubs.enter_async_context(calling(address, second.address))
            await eventually_called(stub, one, other)
            first.set_health(False)
            await in_a_row(stub, other)
        async with stubs:
            anew, new = greeter(server_address=address)
            async with anew:
                await eventually_called(stub, new, other)
