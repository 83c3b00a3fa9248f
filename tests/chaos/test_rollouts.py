"""Nodes that are replaced, and connections that end by age: nobody may notice."""

from __future__ import annotations

import asyncio
import random

import pytest

from pymicro import Client
from tests.bars import ROLLING, Bars
from tests.chaos.fleet import Fleet, Member, addresses, listed
from tests.chaos.load import Load, ended, spread
from tests.chaos.proxy import Hole
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


async def replace_all(fleet: Fleet, members: list[Member], **settings: str) -> None:
    """Each of `members` gets SIGTERM, and another process takes its place; one after the other."""
    for number, member in enumerate(list(members)):
        leaving = asyncio.create_task(asyncio.to_thread(member.process.stop))
        (members[number],) = await fleet.start(1, **settings)
        assert await leaving == 0


@pytest.mark.parametrize("retries", ["off", "on"])
async def test_all_nodes_replaced_by_sigterm_under_load(
    fleet: Fleet, registry_folder: str, bars: Bars, retries: str
) -> None:
    chance = random.Random(3)
    # Readers of the registry `local` look every 0.25 s. Without a drain that waits for them,
    # which on a laptop nobody wants, calls are refused, and have to be tried again elsewhere.
    servers = {"MICRO_DRAIN_DELAY": "500ms"} if retries == "off" else {}
    caller: dict[str, int] = {"client_retries": 0} if retries == "off" else {}
    rounds = 2 if retries == "off" else 1
    members = await fleet.start(4, **servers)
    async with Client(registry_address=registry_folder, **caller) as client:
        channel = client.channel("victim")
        async with (
            Load(channel, "Plain", rate=150) as short,
            Load(channel, "Plain", rate=20, seconds=lambda: chance.uniform(0.2, 1.0)) as long,
            Load(channel, "Count", rate=20, seconds=lambda: chance.uniform(0.1, 1.0)) as streams,
            Load(channel, "Collect", rate=20, seconds=lambda: chance.uniform(0.1, 1.0)) as uploads,
        ):
            for _ in range(rounds):
                await spread(short, addresses(members))
                await replace_all(fleet, members, **servers)
            await spread(short, addresses(members))
    calls = [*short.calls, *long.calls, *streams.calls, *uploads.calls]
    tally = Tally(calls, fleet.journal())
    if retries == "off":
        bars.met(ROLLING, f"{len(tally.failed)} of {len(tally.calls)}", not tally.failed)
        assert tally.retried() == 0
    tally.check()


async def test_all_nodes_replaced_at_once(fleet: Fleet, registry_folder: str) -> None:
    members = await fleet.start(3, MICRO_DRAIN_DELAY="500ms")
    async with (
        Client(registry_address=registry_folder, client_retries=0) as client,
        Load(client.channel("victim"), "Plain", rate=100, seconds=0.05) as load,
    ):
        await spread(load, addresses(members))
        others = await fleet.start(3)
        codes = await asyncio.gather(*(asyncio.to_thread(one.process.stop) for one in members))
        assert codes == [0, 0, 0]
        await spread(load, addresses(others))
    Tally(load.calls, fleet.journal()).check()


async def test_goaway_with_unary_streaming_and_queued_calls(fleet: Fleet, registry_folder: str) -> None:
    chance = random.Random(7)
    members = [
        *await fleet.start(1, MICRO_MAX_CONNECTION_AGE="100ms"),
        *await fleet.start(1, MICRO_MAX_CONNECTION_AGE="300ms"),
    ]
    (far,) = await fleet.start(1, service="far", MICRO_MAX_CONNECTION_AGE="100ms")
    # It takes 30 ms to reach this one: when its connection has been told to go away, the calls of
    # that time wait in grpc-core for the next one.
    async with (
        Hole(far.address, delay=0.03) as hole,
        Client(**listed({hole.address}, "far"), client_retries=0) as distant,
        Client(registry_address=registry_folder, client_retries=0) as client,
    ):
        channel = client.channel("victim")
        async with (
            Load(channel, "Plain", rate=250) as short,
            Load(channel, "Plain", rate=30, seconds=lambda: chance.uniform(0.05, 0.5)) as long,
            Load(channel, "Count", rate=30, seconds=lambda: chance.uniform(0.05, 0.5)) as streams,
            Load(distant.channel("far"), "Plain", rate=250) as queued,
        ):
            await ended(short, queued, count=800)
        assert hole.connections >= 5
    journal = fleet.journal()
    Tally([*short.calls, *long.calls, *streams.calls], journal).check()
    Tally(queued.calls, journal).check()
    assert any(call.ended - call.begun >= 0.03 for call in queued.calls), "none had to wait"
    assert set(Tally(short.calls, journal).shares()) == {member.name for member in members}
