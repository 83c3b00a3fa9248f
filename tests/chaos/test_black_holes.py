"""Nodes that take everything and answer nothing, while their connections look well."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pymicro import Client
from tests.bars import SWALLOWED, SWALLOWED_P2C, Bars
from tests.chaos.fleet import Fleet, addresses, listed
from tests.chaos.load import Load, spread
from tests.chaos.proxy import Hole
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


async def test_a_node_that_swallows_packets_gets_hardly_a_call_of_p2c(fleet: Fleet, bars: Bars) -> None:
    first, *others = await fleet.start(5)
    async with Hole(first.address) as hole:
        everybody = {hole.address, *addresses(others)}
        async with (
            Client(**listed(everybody), balancer="p2c") as client,
            Load(client.channel("victim"), "Plain", rate=200, timeout=2.0) as load,
        ):
            await spread(load, everybody)
            hole.swallow()
            await asyncio.sleep(2)  # the bar says: after 2 s
            before, begun = len(hole.calls), len(load.calls)
            await load.more(400)
            sent, calls = len(hole.calls) - before, len(load.calls) - begun
    tally = Tally(load.calls, fleet.journal())
    tally.sound()
    tally.failed_only_on(everybody, "DEADLINE_EXCEEDED")
    bars.met(SWALLOWED_P2C, f"{sent / calls:.1%}", sent / calls < 0.01)
    assert sent <= 0.05 * calls, f"{sent} of {calls} calls went to a node that swallows them"


async def test_a_node_that_swallows_packets_is_left_by_round_robin(
    fleet: Fleet, bars: Bars, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro.client")
    first, *others = await fleet.start(5)
    async with Hole(first.address) as hole:
        everybody = {hole.address, *addresses(others)}
        async with (
            Client(**listed(everybody), balancer="round_robin") as client,
            Load(client.channel("victim"), "Plain", rate=200, timeout=2.0) as load,
        ):
            await spread(load, everybody)
            hole.swallow()
            while all(call.code != "DEADLINE_EXCEEDED" for call in load.calls):
                await load.more(1)
            await asyncio.sleep(2)  # the bar says: within 2 s
            before, begun = len(hole.calls), len(load.calls)
            caplog.clear()
            await load.more(400)
            sent, calls = len(hole.calls) - before, len(load.calls) - begun
            said = [record.getMessage() for record in caplog.records]
    # One call at a time may look whether it is back; the last of them has not come to its end.
    probes = min(sent, 1 + sum(hole.address in line and "its probe failed" in line for line in said))
    tally = Tally(load.calls, fleet.journal())
    tally.sound()
    tally.failed_only_on(everybody, "DEADLINE_EXCEEDED")
    bars.met(SWALLOWED, f"{sent - probes} ({probes} probes)", sent == probes)
    assert sent - probes <= 0.05 * calls, f"{sent} of {calls} calls went to a node that swallows them"


async def test_a_stopped_process_is_left_and_used_again_when_it_goes_on(
    fleet: Fleet, registry_folder: str
) -> None:
    members = await fleet.start(4)
    frozen, *others = members
    async with (
        Client(registry_address=registry_folder, balancer="round_robin") as client,
        Load(client.channel("victim"), "Plain", rate=100, timeout=1.0) as load,
    ):
        await spread(load, addresses(members))
        fleet.freeze(frozen)
        try:
            await load.more(250)
            assert any(call.node == frozen.address for call in load.calls if call.code == "DEADLINE_EXCEEDED")
            begun = len(load.calls)
            await load.more(200)
            left = [call for call in load.calls[begun:] if call.code]
        finally:
            fleet.thaw(frozen)
        await spread(load, addresses(members))
    tally = Tally(load.calls, fleet.journal())
    tally.sound()
    tally.failed_only_on(addresses(members), "DEADLINE_EXCEEDED")
    assert sum(call.node == frozen.address for call in left) <= 0.1 * len(left)  # a quarter is its due
    assert {call.node for call in left if call.code == "OK"} == addresses(others)
