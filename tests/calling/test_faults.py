"""Servers that die in the middle of a call, and many channels that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, Node
from tests.bars import CHANNELS, Bars
from tests.processes import Processes

from .backends import count_down, greeter, hello, in_flight, stub

SERVER = """
import asyncio
from pymicro import Service, handler
from greeter.v1 import greeter_pb2 as pb

class Greeter:
    @handler
    async def say_hello(self, request):
        if request.name == "wait":
            print("waiting", flush=True)
            await asyncio.sleep(3600)
        return pb.HelloReply(message="Hello", address=service.node.address)

    @handler
    async def count_down(self, request):
        yield pb.CountDownReply(number=1)
        print("streaming", flush=True)
        await asyncio.sleep(3600)

service = Service("greeter")
service.add(Greeter(), pb, partial=True)
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "app.py"
    path.write_text(SERVER)
    return str(path)


async def _start(processes: Processes, app: str) -> Any:
    server = processes.pymicro("run", app, PYTHONPATH="examples/greeter")
    await asyncio.to_thread(server.wait_for, ", registered")
    return server


async def test_kill_9_in_mid_call_and_mid_stream_ends_both_with_unavailable(
    processes: Processes, app: str, registry_folder: str
) -> None:
    server = await _start(processes, app)
    async with Client(registry_address=registry_folder) as client:
        greet = stub(client)
        unary = asyncio.ensure_future(greet.SayHello(hello("wait"), timeout=60))
        await asyncio.to_thread(server.wait_for, "waiting")
        stream = greet.CountDown(count_down(1))
        assert (await stream.read()).number == 1
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(pymicro.Unavailable) as caught:
            await unary
        assert caught.value.node is not None
        with pytest.raises(pymicro.Unavailable):
            await stream.read()
        assert in_flight(client) == 0


async def test_after_kill_9_the_rest_answers_every_call(
    processes: Processes, app: str, registry_folder: str
) -> None:
    servers = [await _start(processes, app) for _ in range(3)]
    async with Client(registry_address=registry_folder) as client:
        greet = stub(client)
        watch = client.watch_nodes("greeter")
        while len(await anext(watch)) < 3:
            pass
        seen = set()
        async with asyncio.timeout(20):
            while len(seen) < 3:
                seen.add((await greet.SayHello(hello())).address)
        os.kill(servers[0].pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            while len(await anext(watch)) != 2:
                pass
        await watch.aclose()
        left = {(await greet.SayHello(hello())).address for _ in range(30)}
        assert len(left) == 2
        assert left < seen


CHURN = """
import asyncio, gc, sys
from pymicro import Client, MemoryRegistry, Node
from pymicro.calling.connections import node_channel
from tests.calling.backends import backend, hello, stub

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

node_channel.AT_ONCE = 50  # else connections of one set are spread over a second

async def churn(client, registry, port, rounds):
    # Each round: 50 nodes come, are connected, and go.
    greet = stub(client)
    target = client.channel("greeter").open()
    for turn in range(rounds):
        nodes = [Node(f"{turn}-{n}", f"127.0.0.{n + 2}:{port}", "greeter") for n in range(50)]
        for node in nodes:
            await registry.register(node)
        while sum(channel.pickable for channel in target.channels.values()) < 50:
            await target.change()
        await greet.SayHello(hello())
        for node in nodes:
            await registry.deregister(node)
        while target.channels or client._core._pool._retired:
            await asyncio.sleep(0)  # retired channels close in tasks of their own

async def main():
    registry = MemoryRegistry()
    async with registry, backend(address="0.0.0.0:0") as server, Client(registry=registry) as client:
        port = server.node.address.rpartition(":")[2]
        await churn(client, registry, port, 20)
        gc.collect()
        before, objects = resident(), len(gc.get_objects())
        await churn(client, registry, port, 200)
        gc.collect()
        print("grown", resident() - before, len(gc.get_objects()) - objects, flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from Linux's /proc")
@pytest.mark.alone
def test_10_000_channels_opened_and_closed_grow_memory_by_less_than_5_mb(
    processes: Processes, bars: Bars
) -> None:
    # One arena: glibc otherwise gives each of grpc-core's threads an arena of its own, and
    # how those fill differs by some MB from run to run. What leaks, leaks here as well.
    churn = processes.python("-c", CHURN, PYTHONPATH="examples/greeter:.", MALLOC_ARENA_MAX="1")
    found = churn.wait_for(r"grown (-?\d+) (-?\d+)", timeout=110)
    bars.met(CHANNELS, f"{int(found[1]) / 1024:.1f} MB", int(found[1]) < 5 * 1024)
    assert int(found[1]) < 5 * 1024
    assert int(found[2]) < 1000  # objects


async def test_10_000_channel_objects_and_stubs_leave_nothing_behind() -> None:
    async with greeter() as (client, _, _):
        await stub(client).SayHello(hello())
        gc.collect()
        for _ in range(100):
            stub(client)
        gc.collect()
        objects = len(gc.get_objects())
        for _ in range(10_000):
            channel = client.channel("greeter")
            await channel.close()
            stub(client)
        gc.collect()
        assert len(gc.get_objects()) - objects < 1000


async def test_closing_while_a_connection_is_being_made_ends_at_once() -> None:
    with contextlib.closing(_silent()) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with Client(registry="static", registry_address=f"greeter={address}") as client:
            call = stub(client).SayHello(hello(), timeout=60)
            await asyncio.sleep(0)
        assert call.cancelled()


def _silent() -> Any:
    """A port that takes connections and never says a word."""
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    return listener


async def test_a_node_that_takes_connections_and_says_nothing_costs_no_call() -> None:
    async with greeter(1) as (client, registry, (server,)):
        with contextlib.closing(_silent()) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            await registry.register(Node("silent", address, "greeter"))
            for _ in range(20):
                assert (await stub(client).SayHello(hello())).address == server.node.address


async def test_metadata_over_the_servers_limit_is_an_error_and_not_a_hang() -> None:
    async with greeter() as (client, _, _):
        with pytest.raises(pymicro.RpcError):
            await stub(client).SayHello(hello(), metadata=(("big", "x" * 100_000),))
        assert in_flight(client) == 0
        assert (await stub(client).SayHello(hello())).message == "Hello Ada"


async def test_a_request_iterator_that_raises_ends_the_call() -> None:
    async def requests() -> AsyncIterator[Any]:
        yield hello("a")
        raise ValueError("the file is gone")

    async with greeter() as (client, _, (server,)):
        with pytest.raises(ValueError, match="the file is gone"):
            await stub(client).GreetAll(requests())
        await server.until(lambda: server.running == 0)
        assert in_flight(client) == 0
        assert (await stub(client).SayHello(hello())).message == "Hello Ada"


async def test_a_slow_reader_holds_up_nobody_else() -> None:
    async with greeter() as (client, _, _):
        slow = stub(client).CountDown(count_down(9000))
        assert (await slow.read()).number == 9000
        for _ in range(50):
            await stub(client).SayHello(hello())
        assert [line.text async for line in stub(client).Chat(iter([pb.ChatMessage(text="x")]))] == ["X"]
        slow.cancel()
