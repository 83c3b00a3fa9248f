"""Nodes that do not answer and do not say so: connections that nothing comes back from."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, MemoryRegistry, Node
from pymicro.calling.connections.node_channel import NodeChannel
from tests.processes import Processes

from .backends import Backend, backend, greeter, hello, in_flight, stub
from .wire import PERMITTING, Wire, wire

# The setting's 20 s would take too long; a second is the shortest interval that grpc-core's
# client keeps to. The 5 s for the answer stay.
QUICK: Any = (("grpc.keepalive_time_ms", 1000),)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Client, Wire, Backend]]:
    """A client of two nodes that permit pings: one behind a wire, and another one."""
    registry = MemoryRegistry()
    permitted = {"keepalive": "10s"}
    async with (
        registry,
        backend(options=PERMITTING) as behind,
        wire(behind.node.address) as line,
        backend(registry, options=PERMITTING, metadata=permitted) as other,
        # Each node gets its turn, also one that just answered slowly.
        Client(registry=registry, balancer="round_robin") as client,
    ):
        await registry.register(Node("wired", line.address, "greeter", metadata=permitted))
        target = client.channel("greeter", options=QUICK).open()

        def both() -> bool:
            # An update that is scheduled is what tells the balancer.
            return not target._scheduled and all(one.pickable for one in target.channels.values())

        await until(client, both, count=2)
        yield client, line, other


def wired(client: Client) -> NodeChannel:
    """The channel to the node behind the wire."""
    channels = client.channel("greeter", options=QUICK).open().channels.values()
    return next(channel for channel in channels if channel.node.id == "wired")


async def until(client: Client, condition: Any, *, count: int = 0) -> None:
    """Wait until it holds, and there are `count` nodes; it is looked at when one of them changes."""
    target = client.channel("greeter", options=QUICK).open()
    async with asyncio.timeout(30):
        while len(target.channels) < count or not condition():
            await target.change()


async def spread(client: Client, calls: int) -> Counter[str]:
    greet = stub(client, options=QUICK)
    return Counter([(await greet.SayHello(hello(), timeout=20)).address for _ in range(calls)])


async def test_an_idle_connection_that_falls_silent_is_left_before_a_call_meets_it() -> None:
    async with two() as (client, line, other):
        assert len(await spread(client, 20)) == 2
        line.mute()
        await until(client, lambda: not wired(client).pickable)
        assert set(await spread(client, 20)) == {other.node.address}
        line.speak()
        await until(client, lambda: wired(client).pickable)
        assert len(await spread(client, 20)) == 2


async def test_calls_in_flight_on_a_connection_that_falls_silent_end_with_unavailable() -> None:
    async with two() as (client, line, other):
        greet = stub(client, options=QUICK)
        waiting = [asyncio.ensure_future(greet.SayHello(hello("wait"), timeout=60)) for _ in range(4)]
        chats = [greet.Chat() for _ in range(4)]
        for chat in chats:
            await chat.write(pb.ChatMessage(text="a"))
            assert (await chat.read()).text == "A"
        await other.until(lambda: other.running == 4)
        line.mute()
        dead = [chat for chat in chats if chat.node.id == "wired"]
        ends = await asyncio.gather(*(chat.read() for chat in dead), return_exceptions=True)
        other.release.set()
        ends += await asyncio.gather(*waiting, return_exceptions=True)
        failed = [end for end in ends if isinstance(end, pymicro.Unavailable)]
        assert [exc.node.id for exc in failed if exc.node] == ["wired"] * 4
        # The other half went to the other node.
        answers = [end for end in ends if end not in failed]
        assert [answer.address for answer in answers] == [other.node.address] * 2
        for chat in chats:
            chat.cancel()
        await until(client, lambda: not wired(client).pickable)
        assert in_flight(client) == 0
        assert set(await spread(client, 10)) == {other.node.address}


def silent() -> socket.socket:
    """A port that takes connections and never says a word."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    return listener


async def test_a_call_to_a_node_that_never_speaks_http2_fails_long_before_its_deadline() -> None:
    with contextlib.closing(silent()) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with Client(registry="static", registry_address=f"greeter={address}") as client:
            with pytest.raises(pymicro.Unavailable) as caught:
                await stub(client).SayHello(hello(), timeout=60)
            assert address in str(caught.value.details())


async def test_a_node_that_never_speaks_http2_is_not_called_beside_one_that_does() -> None:
    async with greeter(1) as (client, registry, (server,)):
        with contextlib.closing(silent()) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            await registry.register(Node("silent", address, "greeter"))
            target = client.channel("greeter").open()
            async with asyncio.timeout(30):
                while not any(channel.failed for channel in target.channels.values()):
                    await target.change()
            answers = [await stub(client).SayHello(hello()) for _ in range(20)]
            assert {answer.address for answer in answers} == {server.node.address}


def may_have_namespaces() -> bool:
    """Whether this is Linux, we are root, and iproute2 is here."""
    tools = all(map(shutil.which, ("ip", "unshare", "nsenter")))
    return sys.platform == "linux" and os.geteuid() == 0 and tools


@pytest.mark.skipif(not may_have_namespaces(), reason="needs Linux's network namespaces: root and iproute2")
@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        # A node that permits no pings is found by what is sent to it (TCP_USER_TIMEOUT).
        ("request", "UNAVAILABLE, left"),
        # One that does is found with no call at all.
        ("idle", "left"),
        ("stream", "UNAVAILABLE, left"),
        # Nobody answers at an address: the attempt to connect ends.
        ("connect", "UNAVAILABLE"),
    ],
)
def test_a_node_whose_packets_vanish_is_found(processes: Processes, scenario: str, said: str) -> None:
    hole = processes.start(
        "unshare",
        "--net",
        sys.executable,
        "-m",
        "tests.calling.vanishing",
        scenario,
        PYTHONPATH="examples/greeter:.",
    )
    assert hole.wait_for(r"found: (.*)", timeout=60)[1] == said
    assert hole.wait() == 0, hole.report()
