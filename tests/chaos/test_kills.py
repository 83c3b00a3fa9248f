"""Nodes that die in mid-call, and come back."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from pymicro import Client
from tests.bars import KILLED_MARKED, KILLED_UNMARKED, RESTARTED, Bars
from tests.chaos.fleet import Fleet, Member, addresses, listed
from tests.chaos.load import Load, ended, spread
from tests.chaos.tally import Tally
from tests.processes import Processes

pytestmark = pytest.mark.alone


async def test_sigkill_of_one_of_ten_nodes_under_load(fleet: Fleet, registry_folder: str, bars: Bars) -> None:
    members = await fleet.start(10)
    killed: set[str] = set()
    async with Client(registry_address=registry_folder) as client:
        channel = client.channel("victim")
        async with (
            Load(channel, "Marked", rate=100, seconds=0.4) as marked,
            Load(channel, "Decorated", rate=20, seconds=0.4) as decorated,
            Load(channel, "Plain", rate=50, seconds=0.4) as plain,
        ):
            loads = (marked, decorated, plain)
            for victim in members[:2]:
                await spread(marked, addresses(members))
                await spread(decorated, addresses(members))  # `@idempotent` is known from answers
                await fleet.kill(victim)
                await ended(*loads, count=30)
                killed.add(victim.address)
                there = [call for call in plain.calls if call.node == victim.address and call.code != "OK"]
                # From when the first of them has failed it is known, and no call is begun there.
                noticed = min((call.ended for call in there), default=0.0)
                assert [call for call in there if call.begun > noticed] == []
                await fleet.again(victim, same_address=False)
    safe = Tally([*marked.calls, *decorated.calls], fleet.journal())
    unsafe = Tally(plain.calls, fleet.journal())
    bars.met(KILLED_MARKED, f"{len(safe.failed)} of {len(safe.calls)}", not safe.failed)
    there = [call for call in unsafe.failed if call.node in killed]
    figure = f"{len(there)} of {len(unsafe.calls)} there, {len(unsafe.failed) - len(there)} elsewhere"
    bars.met(KILLED_UNMARKED, figure, len(there) == len(unsafe.failed))
    safe.check()
    unsafe.sound()
    unsafe.failed_only_on(killed)
    assert safe.retried() > 0, "no call was there when its node was killed"


async def test_no_unmarked_method_ever_runs_twice(fleet: Fleet, registry_folder: str) -> None:
    chance = random.Random(20261123)
    members = await fleet.start(4)
    everywhere = addresses(members)

    async def killing(pair: list[Member]) -> None:
        """Fifteen times one of the two, in the middle of what it is doing."""
        for _ in range(15):
            await plain.more(chance.randint(1, 30))
            victim = chance.choice(pair)
            await fleet.kill(victim)
            await fleet.again(victim, same_address=chance.random() < 0.5)
            everywhere.add(victim.address)

    async with Client(registry_address=registry_folder) as client:
        channel = client.channel("victim")
        async with (
            Load(channel, "Plain", rate=120, seconds=lambda: chance.uniform(0, 0.15)) as plain,
            Load(channel, "Count", rate=20, seconds=lambda: chance.uniform(0, 0.15)) as streams,
            Load(channel, "Marked", rate=20, seconds=lambda: chance.uniform(0, 0.15)) as marked,
        ):
            await asyncio.gather(*(killing(pair) for pair in (members[:2], members[2:])))
    journal = fleet.journal()
    tally = Tally([*plain.calls, *streams.calls], journal)
    tally.sound()
    tally.failed_only_on(everywhere)
    ended_there = {line.call for line in tally.journal if line.event == "end"}
    cut = [call for call in tally.ran if call not in ended_there]
    assert len(cut) >= 20, f"only {len(cut)} calls were running when their node was killed"
    again = Tally(marked.calls, journal)
    again.sound()
    # Else the retries were off, and the above would hold without a rule.
    assert again.retried() > 0


async def test_a_node_restarted_on_the_same_address_is_used_again(fleet: Fleet, bars: Bars) -> None:
    members = await fleet.start(3)
    async with (
        Client(**listed(addresses(members))) as client,
        Load(client.channel("victim"), "Marked", rate=40) as load,
    ):
        await spread(load, addresses(members))
        await fleet.kill(members[0])
        # Away for so long that the pauses between attempts to connect have grown.
        await load.more(240)
        await fleet.again(members[0])
        back = time.time()
        await spread(load, addresses(members))
    tally = Tally(load.calls, fleet.journal())
    first = min(line.at for line in tally.journal if line.pid == members[0].pid)
    bars.met(RESTARTED, f"{max(0.0, first - back):.1f} s", first - back <= 6)
    tally.check()


async def test_an_address_that_another_service_has_now(fleet: Fleet, processes: Processes) -> None:
    members = await fleet.start(3)
    gone = members[0]
    async with (
        Client(**listed(addresses(members)), balancer="round_robin") as client,
        Load(client.channel("victim"), "Plain", rate=80) as load,
    ):
        await spread(load, addresses(members))
        await fleet.kill(gone)
        stranger = processes.pymicro(
            "run",
            "examples/greeter/server.py",
            PYTHONPATH="examples/greeter",
            MICRO_SERVER_ADDRESS=gone.address,
        )
        await asyncio.to_thread(stranger.wait_for, ", registered")
        there = len(load.calls)
        # Calls in flight when the node was killed may have failed; none does from here on.
        await load.more(200)
    tally = Tally(load.calls, fleet.journal())
    tally.failed_only_on({gone.address})
    assert [call for call in load.calls[there:] if call.code != "OK"] == []
