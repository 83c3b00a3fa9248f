"""What a target makes of its nodes: its part of a large service, and those that fail left out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

import pymicro
from pymicro import Client, MemoryRegistry, Node
from pymicro.calling.connections.grpc_transport import GrpcConnection
from pymicro.calling.connections.node_channel import NodeChannel

from .backends import backend, connected, greeter, hello, stub
from .flaky import NOT_STARTED, Refusal, flaky

INTERNAL = grpc.StatusCode.INTERNAL


class _Clock:
    """A chooser's clock, that stands still until it is moved: how long calls take must not count."""

    def __init__(self, target: Any) -> None:
        self.moment = time.monotonic()
        target.chooser._clock = lambda: self.moment


async def _updated(target: Any) -> None:
    """Wait until the balancer knows what the chooser has decided: up to 10 ms later."""
    async with asyncio.timeout(10):
        while target._scheduled:
            await target.change()


async def _quiet(get: Any) -> None:
    await asyncio.gather(get(b"x", timeout=5), return_exceptions=True)


def _fails(nodes: Any, bad: str) -> None:
    """The node of this id fails everything."""
    nodes.refuse = lambda number: Refusal(INTERNAL) if nodes.ran[number] == bad else None


@pytest.mark.parametrize("balancer", ["round_robin", "random"])
async def test_a_node_that_fails_is_left_out_and_comes_back(balancer: str) -> None:
    async with flaky(4, balancer=balancer, outlier_ejection="on") as nodes:
        bad = nodes.nodes[0].id
        _fails(nodes, bad)
        get = nodes.method()
        target = nodes.client.channel("t").open()
        clock = _Clock(target)
        while not target.chooser.ejected:
            await _quiet(get)
        assert nodes.ran.count(bad) == 5
        await _updated(target)

        async def more(calls: int) -> int:
            """Make so many calls; how many of them ran on the bad node."""
            begun = len(nodes.ran)
            for _ in range(calls):
                await _quiet(get)
            return nodes.ran[begun:].count(bad)

        assert await more(40) == 0
        clock.moment += 1.2  # the first ejection is for a second, 20 % more or less
        assert await more(40) == 1  # that probed it
        nodes.refuse = lambda _: None
        clock.moment += 2.4  # and the next one for two
        assert await more(1) == 1
        assert not target.chooser.ejected
        await _updated(target)
        assert await more(60)


async def test_without_ejection_a_failing_node_keeps_its_turn() -> None:
    async with flaky(4, outlier_ejection="off") as nodes:
        bad = nodes.nodes[0].id
        _fails(nodes, bad)
        get = nodes.method()
        for _ in range(80):
            await _quiet(get)
        assert nodes.ran.count(bad) == 20


async def test_an_ejected_node_that_connects_anew_is_asked_at_once() -> None:
    async with flaky(3, outlier_ejection="on") as nodes:
        bad = nodes.nodes[0]
        _fails(nodes, bad.id)
        get = nodes.method()
        target = nodes.client.channel("t").open()
        _Clock(target)  # no ejection is over by itself
        while bad.key not in target.chooser.ejected:
            await _quiet(get)
        await _updated(target)
        nodes.refuse = lambda _: None
        for _ in range(10):
            await get(b"x")
        assert bad.key in target.chooser.ejected
        target.channels[bad.key]._saw(grpc.ChannelConnectivity.IDLE)
        target.channels[bad.key]._saw(grpc.ChannelConnectivity.READY)
        await _updated(target)
        await get(b"x")
        assert bad.key not in target.chooser.ejected


async def test_what_a_node_refuses_to_start_ejects_nobody() -> None:
    async with flaky(3, outlier_ejection="on", client_retries=0) as nodes:
        nodes.refuse = lambda _: Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, NOT_STARTED)
        get = nodes.method()
        for _ in range(60):
            await _quiet(get)
        assert not nodes.client.channel("t").open().chooser.ejected


async def test_calls_cancelled_here_eject_nobody() -> None:
    async with greeter(2, balancer="round_robin") as (client, _, _):
        greet = stub(client)
        for _ in range(30):
            call = greet.SayHello(hello("wait"))
            await asyncio.sleep(0)
            call.cancel()
        assert not client.channel("greeter").open().chooser.ejected


async def test_deadlines_that_pass_while_the_loop_is_blocked_eject_nobody() -> None:
    async with greeter(2, balancer="round_robin", client_retries=0) as (client, _, _):
        target = await connected(client, 2)
        greet = stub(client)
        calls = [greet.SayHello(hello("wait"), timeout=0.05) for _ in range(30)]
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 # the blocked loop is what is tested
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, pymicro.DeadlineExceeded) for error in ended)
        assert not target.chooser.ejected
        # The same deadlines while the loop runs are the nodes' fault. One by one, and not for a
        # number of calls: where the machine is so busy that a deadline is noticed late, that says
        # nothing either.
        async with asyncio.timeout(20):
            while not target.chooser.ejected:
                with pytest.raises(pymicro.DeadlineExceeded):
                    await greet.SayHello(hello("wait"), timeout=0.05)
        assert len(target.chooser.ejected) == 1


async def test_a_deadline_that_passed_while_the_loop_stood_still_says_so() -> None:
    async with greeter(loop_lag=0.05, client_retries=0) as (client, _, _):
        await connected(client, 1)
        greet = stub(client)
        call = greet.SayHello(hello("wait"), timeout=0.3)
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 # the blocked loop is what is tested
        with pytest.raises(
            pymicro.DeadlineExceeded, match=r"; the event loop of this process stood still for "
        ):
            await call


async def test_of_a_large_service_a_client_uses_its_own_part() -> None:
    registry = MemoryRegistry()
    async with registry, backend(address="0.0.0.0:0") as server:
        port = server.node.address.rpartition(":")[2]
        for number in range(40):
            await registry.register(Node(f"n{number}", f"127.0.1.{number}:{port}", "t"))
        parts = []
        for _ in range(3):
            async with Client(registry=registry, subset_size=6) as client:
                target = await connected(client, 6, "t")
                assert len(target.nodes) == len(target.channels) == 6
                parts.append(frozenset(target.channels))
        assert len(set(parts)) > 1
        async with Client(registry=registry, subset_size=0) as client:
            await connected(client, 40, "t")


async def test_when_a_node_of_its_part_leaves_one_other_takes_its_place() -> None:
    registry = MemoryRegistry()
    async with registry, backend(address="0.0.0.0:0") as server:
        port = server.node.address.rpartition(":")[2]
        nodes = [Node(f"n{number}", f"127.0.1.{number}:{port}", "t") for number in range(20)]
        for node in nodes:
            await registry.register(node)
        async with Client(registry=registry, subset_size=5) as client:
            target = await connected(client, 5, "t")
            before = set(target.channels)
            gone = target.nodes.nodes[0]
            await registry.deregister(gone)
            async with asyncio.timeout(5):
                while gone.key in target.channels:
                    await target.change()
            assert len(target.channels) == 5
            assert len(set(target.channels) - before) == 1


async def test_nodes_of_the_own_zone_are_preferred_and_the_others_wait() -> None:
    registry = MemoryRegistry()
    zone = "topology.kubernetes.io/zone"
    async with registry, backend(address="0.0.0.0:0") as server:
        port = server.node.address.rpartition(":")[2]
        for number in range(8):
            place = {zone: "a" if number < 4 else "b"}
            await registry.register(Node(f"n{number}", f"127.0.1.{number + 1}:{port}", "t", metadata=place))
        async with Client(registry=registry, zone="b", balancer="round_robin") as client:
            greet = stub(client, "t")
            await connected(client, 8, "t")
            used = set()
            for _ in range(32):
                call = greet.SayHello(hello())
                await call
                used.add(call.node.metadata[zone])
            assert used == {"b"}


async def test_a_connection_that_is_down_is_passed_over_before_it_is_known_to_be() -> None:
    async with flaky(2) as nodes:
        target = nodes.client.channel("t").open()
        gone = target.channels[nodes.nodes[0].key]
        real = gone.connection
        gone.connection = GrpcConnection(grpc.aio.insecure_channel("127.0.0.1:1"))  # a turn old
        try:
            for _ in range(10):
                assert (await nodes.method()(b"x")).decode() == nodes.nodes[1].id
        finally:
            await gone.connection.close()
            gone.connection = real


async def test_where_no_connection_is_up_a_call_still_takes_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    async with flaky(2) as nodes:
        monkeypatch.setattr(NodeChannel, "ready", lambda _: False)
        assert await nodes.method()(b"x") in [node.id.encode() for node in nodes.nodes]


async def test_what_was_sent_on_no_connection_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async with flaky(2) as nodes:
        monkeypatch.setattr(NodeChannel, "ready", lambda _: False)
        down = nodes.client.channel("t").open().channels[nodes.nodes[1].key]
        real = down.connection
        down.connection = GrpcConnection(grpc.aio.insecure_channel("127.0.0.1:1"))
        try:
            # Neither is READY, so calls take one or the other; those on the dead one go on.
            answers = [await nodes.method()(b"x") for _ in range(10)]
        finally:
            await down.connection.close()
            down.connection = real
        assert answers == [nodes.nodes[0].id.encode()] * 10
