"""In which order and how fast a client that finds many nodes connects to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pymicro.base.tasks import Tasks
from pymicro.calling.connections.grpc_transport import GrpcTransport
from pymicro.calling.connections.node_channel import (
    AT_ONCE,
    CHANNELS_A_TURN,
    NodeChannel,
    NodeChannels,
)
from pymicro.calling.connections.options import ChannelOptions
from pymicro.nodes.node import Node
from pymicro.settings.config import Config

OPTIONS = ChannelOptions()


@asynccontextmanager
async def pool(count: int, seed: int = 0) -> AsyncIterator[tuple[NodeChannels, list[NodeChannel]]]:
    """Channels to nodes at a port where nobody listens; none is connected yet."""
    async with Tasks("test") as tasks:
        made = NodeChannels(Config(), tasks, GrpcTransport(), rng=random.Random(seed))
        channels = [acquire(made, f"n{number:03}") for number in range(count)]
        try:
            yield made, channels
        finally:
            await made.close()


def nothing() -> None:
    pass


def acquire(made: NodeChannels, node: str) -> NodeChannel:
    return made.acquire(Node(node, "127.0.0.1:1", "greeter"), OPTIONS, nothing)


async def steps(made: NodeChannels, channels: list[NodeChannel]) -> list[int]:
    """How many were connected, each time that some more were, until none is due."""
    changed = asyncio.Event()
    for channel in channels:
        channel.listen(changed.set)
    seen = [len(opened(channels))]
    async with asyncio.timeout(30):
        while any(made.is_due(channel) for channel in channels):
            await changed.wait()
            changed.clear()
            if len(opened(channels)) > seen[-1]:
                seen.append(len(opened(channels)))
    for channel in channels:
        channel.unlisten(changed.set)
    return seen


def opened(channels: list[NodeChannel]) -> list[str]:
    return [channel.node.id for channel in channels if not channel.lazy]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [1, AT_ONCE])
async def test_a_few_nodes_are_connected_at_once(count: int) -> None:
    async with pool(count) as (made, channels):
        made.connect_ahead(channels)
        await turns(2)
        assert len(opened(channels)) == count


async def test_of_many_some_are_connected_at_once_and_the_others_little_by_little() -> None:
    async with pool(100) as (made, channels):
        made.connect_ahead(channels)
        await turns(2)
        assert len(opened(channels)) == AT_ONCE
        # A set that arrives meanwhile, with one node more, hurries nobody else.
        late = acquire(made, "late")
        made.connect_ahead([*channels, late])
        await turns(2)
        assert not late.lazy
        assert len(opened(channels)) < 50
        assert len(await steps(made, channels)) > 3
        assert len(opened(channels)) == 100


async def test_each_client_begins_elsewhere() -> None:
    firsts = []
    for seed in range(4):
        async with pool(100, seed) as (made, channels):
            made.connect_ahead(channels)
            await turns(2)
            firsts.append(frozenset(opened(channels)))
    assert len(set(firsts)) == 4
    # A hundred restarted clients would else all meet at the ten first nodes.
    assert len(frozenset.union(*firsts)) > 2 * AT_ONCE


async def test_when_a_call_waits_all_are_connected_a_number_in_each_turn() -> None:
    async with pool(120) as (made, channels):
        made.connect_ahead(channels)
        made.connect_ahead(channels, hurry=True)
        await turns(1)
        assert len(opened(channels)) == CHANNELS_A_TURN
        await turns(4)
        assert len(opened(channels)) == 120


async def test_a_node_that_left_meanwhile_is_not_connected() -> None:
    async with pool(30) as (made, channels):
        made.connect_ahead(channels)
        await turns(2)
        gone = [channel for channel in channels if made.is_due(channel)][:5]
        for channel in gone:
            made.release(channel, OPTIONS, nothing)
        left = [channel for channel in channels if channel not in gone]
        await steps(made, left)
        assert len(opened(channels)) == 25
        assert all(channel.lazy for channel in gone)


async def test_a_client_that_closes_connects_nobody_any_more() -> None:
    async with pool(60) as (made, channels):
        made.connect_ahead(channels)
        await made.close()
        assert not any(made.is_due(channel) for channel in channels)
        await turns(3)
        assert opened(channels) == []
