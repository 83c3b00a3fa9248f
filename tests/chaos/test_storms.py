"""Outages that retries must not make worse."""

from __future__ import annotations

import pytest

from pymicro import Client
from tests.bars import AMPLIFICATION, Bars
from tests.chaos.fleet import Fleet, Member, addresses
from tests.chaos.load import Load, spread
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


async def three_deep(fleet: Fleet) -> list[Member]:
    """Two nodes each of `victim`, which calls `middle`, which calls `deepest`; the deepest are returned."""
    await fleet.start(2, onward="middle")
    await fleet.start(2, service="middle", onward="deepest")
    return await fleet.start(2, service="deepest")


def reached(tally: Tally, service: str) -> int:
    """Executions at a service's nodes."""
    return sum(line.event == "begin" and line.node.startswith(f"{service}-") for line in tally.journal)


async def test_nested_retries_in_a_full_outage_of_the_deepest(
    fleet: Fleet, registry_folder: str, bars: Bars
) -> None:
    deepest = await three_deep(fleet)
    async with Client(registry_address=registry_folder) as client:
        channel = client.channel("victim")
        async with Load(channel, "Onward", rate=100) as before:
            await before.more(150)
        # All methods are marked, and each service passes UNAVAILABLE on as its own: everybody may
        # try again, and but for budgets and the rule of one layer eight calls would come of one.
        fleet.behave(deepest, fail="UNAVAILABLE")
        async with Load(channel, "Onward", rate=250) as load:
            await load.more(2000)
        fleet.behave(deepest)
        async with Load(channel, "Onward", rate=50) as after:
            await after.more(20)
    journal = fleet.journal()
    tally = Tally(load.calls, journal)
    assert not tally.answered
    amplification = reached(tally, "deepest") / len(tally.calls)
    bars.met(AMPLIFICATION, f"{amplification:.3f}", amplification <= 1.1)
    assert tally.retried() > 0, "nobody tried anything again"
    assert amplification <= 1.15, tally.describe()
    for calls in (before.calls, after.calls):  # and it is over as soon as it is over
        Tally(calls, journal).check()


async def test_a_retry_storm_ends_with_its_cause(fleet: Fleet, registry_folder: str) -> None:
    members = await fleet.start(3)
    async with Client(registry_address=registry_folder) as client:
        channel = client.channel("victim")
        async with Load(channel, "Marked", rate=250) as load:
            await spread(load, addresses(members))
            start = len(load.calls)
            fleet.behave(members, fail="UNAVAILABLE")
            await load.more(600)
            middle = len(load.calls)
            fleet.behave(members)
            await load.more(20)  # these may have begun before
            end = len(load.calls)
            await load.more(150)
    journal = fleet.journal()
    storm = Tally(load.calls[start:middle], journal)
    made = reached(storm, "victim")
    # Marked, UNAVAILABLE: each may be tried twice, and the budget for that is what worked before.
    assert made <= 1.15 * len(storm.calls), storm.describe()
    Tally(load.calls[end:], journal).check()
