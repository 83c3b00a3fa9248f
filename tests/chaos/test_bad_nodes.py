"""Nodes that answer, but badly: they fail fast, are slow, or have too much to do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from pymicro import Client
from tests.bars import SLOW_P99, SLOW_SHARE, Bars
from tests.chaos.fleet import Fleet, addresses
from tests.chaos.load import Load, ended, spread
from tests.chaos.tally import Call, Tally

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("balancer", ["p2c", "round_robin"])
async def test_a_fast_failing_node(fleet: Fleet, registry_folder: str, balancer: str) -> None:
    members = await fleet.start(5)
    bad = members[0]
    where = {"registry_address": registry_folder, "balancer": balancer}
    async with (
        Client(**where) as watchful,
        Client(**where, outlier_ejection="off") as careless,
        Load(watchful.channel("victim"), "Plain", rate=120, seconds=0.03) as ejecting,
        Load(careless.channel("victim"), "Plain", rate=120, seconds=0.03) as bearing,
    ):
        for load in (ejecting, bearing):
            await spread(load, addresses(members))
        # Unmarked, and its handler ran: nothing is tried again, so each call counts once.
        fleet.behave([bad], fail="INTERNAL")
        begun = len(ejecting.calls), len(bearing.calls)
        await ended(ejecting, bearing, count=400)
    journal = fleet.journal()
    for load in (ejecting, bearing):
        tally = Tally(load.calls, journal)
        tally.sound()
        tally.failed_only_on({bad.address}, "INTERNAL")
    without, within = (
        sum(call.node == bad.address for call in load.calls[start:]) / len(load.calls[start:])
        for load, start in zip((bearing, ejecting), reversed(begun), strict=True)
    )
    # The calls until it was noticed, those meanwhile in flight, and one now and then to see.
    assert within <= 0.1
    # A fifth is its due. It answers ten times faster than the others, and must not win by that.
    assert without <= 0.27
    if balancer == "round_robin":
        assert without >= 0.13


def p99(calls: Sequence[Call]) -> float:
    times = sorted(call.ended - call.begun for call in calls)
    return times[len(times) * 99 // 100]


async def test_one_of_ten_nodes_ten_times_slower_with_p2c(
    fleet: Fleet, registry_folder: str, bars: Bars
) -> None:
    members = await fleet.start(10)
    slow = members[0]
    async with (
        Client(registry_address=registry_folder, balancer="p2c") as client,
        Load(client.channel("victim"), "Plain", rate=250, seconds=0.02) as load,
    ):
        await spread(load, addresses(members))
        start = len(load.calls)
        await load.more(500)
        fleet.behave([slow], pause=0.18)
        await load.more(100)  # it takes a slow answer to see that it is slow
        middle = len(load.calls)
        await load.more(600)
    tally = Tally(load.calls, fleet.journal())
    tally.check()
    after = load.calls[middle:]
    share = sum(call.node == slow.address for call in after) / len(after)
    ratio = p99(after) / p99(load.calls[start : start + 500])
    bars.met(SLOW_SHARE, f"{share:.1%}", share <= 0.02)
    bars.met(SLOW_P99, f"{ratio:.2f}", ratio <= 1.25)
    assert share <= 0.05, tally.describe()  # round robin: a tenth


async def test_sixty_percent_of_the_nodes_fail(fleet: Fleet, registry_folder: str) -> None:
    members = await fleet.start(10)
    bad, good = members[:6], members[6:]
    async with (
        Client(registry_address=registry_folder, balancer="round_robin") as turns,
        Client(registry_address=registry_folder, balancer="p2c") as choices,
        Load(turns.channel("victim"), "Plain", rate=200) as turning,
        Load(choices.channel("victim"), "Plain", rate=80) as choosing,
    ):
        loads = (turning, choosing)
        for load in loads:
            await spread(load, addresses(members))
        fleet.behave(bad, fail="UNAVAILABLE")
        await ended(turning, choosing, count=100)
        since = [len(load.calls) for load in loads]
        await turning.more(300)
        failing = [len(load.calls) for load in loads]
        for member in bad:
            await fleet.kill(member)
        for load in loads:
            await spread(load, addresses(good))
        killed = [len(load.calls) for load in loads]
        await ended(turning, choosing, count=80)
    journal = fleet.journal()
    for load, first, last, dead in zip(loads, since, failing, killed, strict=True):
        tally = Tally(load.calls, journal)
        tally.sound()
        tally.failed_only_on(addresses(bad))
        late = Tally(load.calls[first:last], journal)
        assert len(late.answered) >= len(late.calls) * 0.3, late.describe()
        # That they cannot be connected to is another thing: then the others have it all.
        assert {call.code for call in load.calls[dead:]} == {"OK"}
    # Nobody is left out but the one whom the cap allows: the good ones must not carry everything.
    shares = Tally(turning.calls[since[0] : failing[0]], journal).shares()
    assert len(shares) >= 9, shares
    assert max(shares[member.name] for member in good) <= shares.total() * 0.2, shares


async def test_two_nodes_and_the_ejection_cap(fleet: Fleet, registry_folder: str) -> None:
    members = await fleet.start(2)
    bad, good = members
    async with (
        Client(registry_address=registry_folder, balancer="round_robin") as client,
        Load(client.channel("victim"), "Plain", rate=150) as load,
    ):
        await spread(load, addresses(members))
        fleet.behave([bad], fail="INTERNAL")
        await load.more(20)
        first = len(load.calls)
        await load.more(150)
        second = len(load.calls)
        fleet.behave(members, fail="INTERNAL")
        await load.more(150)
        third = len(load.calls)
        fleet.behave(members)
        await spread(load, addresses(members))
    journal = fleet.journal()
    # A tenth of two is none, and yet it is left out, but for a call now and then.
    alone = Tally(load.calls[first:second], journal)
    assert alone.shares()[bad.name] <= 0.15 * len(alone.calls), alone.shares()
    assert alone.shares()[good.name] >= 0.85 * len(alone.calls)
    # When both fail, calls still go somewhere: the error is a node's, and not that there is none.
    both = Tally(load.calls[second:third], journal)
    both.sound()
    assert both.shares().total() == len(both.calls), both.describe()
    Tally(load.calls, journal).failed_only_on(addresses(members), "INTERNAL")


async def test_pushback_is_obeyed_over_the_wire(fleet: Fleet, registry_folder: str) -> None:
    members = await fleet.start(2)
    busy, free = members
    # In turns: another balancer soon calls nobody who fails.
    settings = {"balancer": "round_robin", "outlier_ejection": "off"}
    async with Client(registry_address=registry_folder, **settings) as client:
        channel = client.channel("victim")
        async with Load(channel, "Plain", rate=50) as load:
            await spread(load, addresses(members))
        fleet.behave([busy], fail="UNAVAILABLE", trailers=[("grpc-retry-pushback-ms", "300")])
        async with Load(channel, "Marked", rate=20) as later:
            await later.more(8)
        fleet.behave([busy], fail="UNAVAILABLE", trailers=[("grpc-retry-pushback-ms", "-1")])
        async with Load(channel, "Marked", rate=20) as never:
            await never.more(8)
    journal = fleet.journal()
    tally = Tally(later.calls, journal)
    tally.check()
    pushed = [lines for lines in tally.ran.values() if lines[0].node == busy.name]
    assert pushed
    for first, second in pushed:
        assert (second.node, second.attempt) == (free.name, 1)
        assert second.at - first.at >= 0.29, "it was tried again too soon"
    tally = Tally(never.calls, journal)
    tally.sound()
    tally.failed_only_on({busy.address})
    assert tally.failed
    assert tally.retried() == 0


async def test_calls_over_a_servers_limit_are_made_elsewhere(fleet: Fleet, registry_folder: str) -> None:
    chance = random.Random(5)
    limit = 4
    members = await fleet.start(2, MICRO_MAX_CONCURRENT_CALLS=str(limit))
    async with Client(registry_address=registry_folder, balancer="random") as client:
        channel = client.channel("victim")
        async with Load(channel, "Plain", rate=50) as first:
            await spread(first, addresses(members))

        def seconds() -> float:
            return chance.uniform(0.01, 0.06)

        # Where four run one is refused; then the other node has place for it.
        async with Load(channel, "Plain", rate=1000, seconds=seconds, most=limit + 1) as load:
            await load.more(800)
    tally = Tally(load.calls, fleet.journal())
    tally.check()
    assert tally.retried() > 0, "no node was ever full"
    assert most_at_once(tally) == {member.name: limit for member in members}


def most_at_once(tally: Tally) -> dict[str, int]:
    """The most calls that each node had running."""
    running: Counter[str] = Counter()
    most: dict[str, int] = {}
    for line in tally.journal:
        running[line.node] += {"begin": 1, "end": -1}.get(line.event, 0)
        most[line.node] = max(most.get(line.node, 0), running[line.node])
    return most
