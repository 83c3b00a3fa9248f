"""A thousand nodes that come and go under calls."""

from __future__ import annotations

import asyncio
import random
from itertools import count

import pytest

from pymicro import Client, MemoryRegistry, Node
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, ended
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


async def test_a_thousand_nodes_come_and_go_and_no_call_fails(fleet: Fleet) -> None:
    chance = random.Random(1000)
    # All of 127.0.0.0/8 is this machine: each address is a node, though few listen.
    servers = await fleet.start(2, MICRO_SERVER_ADDRESS="0.0.0.0:0")
    ports = [server.address.rpartition(":")[2] for server in servers]
    numbers = count()

    def new() -> Node:
        number = next(numbers)
        host = f"127.{1 + number // 60_000}.{number // 250 % 240}.{1 + number % 250}"
        return Node(f"n{number}", f"{host}:{ports[number % 2]}", "victim")

    async with (
        MemoryRegistry() as registry,
        Client(registry=registry, balancer="round_robin", client_retries=0) as turns,
        Client(registry=registry, balancer="p2c", client_retries=0) as choices,
    ):
        nodes = [new() for _ in range(1000)]
        for node in nodes:
            await registry.register(node)
        async with (
            Load(turns.channel("victim"), "Plain", rate=80, seconds=lambda: chance.uniform(0, 0.1)) as load,
            Load(
                turns.channel("victim"), "Count", rate=15, seconds=lambda: chance.uniform(0, 0.3)
            ) as streams,
            Load(
                choices.channel("victim"), "Plain", rate=80, seconds=lambda: chance.uniform(0, 0.1)
            ) as other,
        ):
            await ended(load, other, count=40)
            for _ in range(40):
                chance.shuffle(nodes)
                for node in nodes[:100]:
                    await registry.deregister(node)
                nodes[:100] = [new() for _ in range(100)]
                for node in nodes[:100]:
                    await registry.register(node)
                await load.more(8)
        for node in nodes:
            await registry.deregister(node)
        for client in (turns, choices):
            pool = client._core._pool
            async with asyncio.timeout(20):
                while pool._channels or pool._retired:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # channels close in tasks of their own
            assert not client.channel("victim").open().channels
    Tally([*load.calls, *streams.calls, *other.calls], fleet.journal()).check()
    for calls in (load.calls, other.calls):
        assert len({call.node for call in calls}) > 100
