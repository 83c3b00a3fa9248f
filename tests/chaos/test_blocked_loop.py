"""A client that does not get to run: no node is to blame."""

from __future__ import annotations

import logging
import time

import pytest

from pymicro import Client
from tests.chaos.fleet import Fleet, addresses
from tests.chaos.load import Load, ended, spread
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


async def test_a_loop_blocked_for_two_seconds_ejects_nobody(
    fleet: Fleet, registry_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro.client")
    members = await fleet.start(4)
    async with (
        Client(registry_address=registry_folder) as calm,
        Client(registry_address=registry_folder, balancer="round_robin") as turns,
        Client(registry_address=registry_folder, balancer="p2c") as choices,
        Load(calm.channel("victim"), "Plain", rate=50, seconds=0.2, timeout=20) as patient,
        # Streams of requests, which end too late when nobody sends them; grpc-core brings a unary
        # call to its end by itself. Ten on each node, and no other call of their client between.
        Load(turns.channel("victim"), "Collect", rate=100, seconds=0.4, messages=2, timeout=1.9) as turning,
        Load(
            choices.channel("victim"), "Collect", rate=100, seconds=0.4, messages=2, timeout=1.9
        ) as choosing,
    ):
        loads = (patient, turning, choosing)
        for load in loads:
            await spread(load, addresses(members))
        await ended(*loads, count=40)
        begun = time.time()
        time.sleep(2)  # noqa: ASYNC251 - this is the fault
        await ended(*loads, count=80)
        # All nodes have their share at once.
        for load in loads:
            await spread(load, addresses(members))
        for load in (turning, choosing):
            there = [call for call in load.calls if call.begun < begun and call.ended > begun]
            assert sum(call.code != "OK" for call in there) >= 20
    journal = fleet.journal()
    Tally(patient.calls, journal).check()
    tally = Tally([*turning.calls, *choosing.calls], journal)
    tally.sound()
    # Not all with DEADLINE_EXCEEDED: grpc.aio goes on sending when the loop runs again, and makes
    # INTERNAL, or a cancellation, of what then comes to the ended call.
    early = [call for call in tally.failed if call.ended - call.begun < 1.85]
    assert early == [], "calls failed that had time left"
    said = [record.getMessage() for record in caplog.records if record.name == "pymicro.client"]
    said = [line for line in said if "eject" in line]
    assert said == []
