"""What the watchdog of an event loop costs, in instructions that callgrind counts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.peers

# A core of a busy server does more than 2,000 million a second.
MOST = 2_000_000

PROGRAM = """
import asyncio, sys
from pymicro.base.watchdog import watched

async def main(seconds):
    with watched(0.5):
        await asyncio.sleep(seconds)

factory = None
if sys.argv[1] == "uvloop":
    import uvloop
    factory = uvloop.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main(float(sys.argv[2])))
"""


def instructions(loop: str, seconds: int) -> int:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        sys.executable,
        "-c",
        PROGRAM,
    ]
    done = subprocess.run(
        [*command, loop, str(seconds)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    (found,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(found)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_watching_takes_a_thousandth_of_a_busy_servers_instructions(loop: str) -> None:
    # The signs of life come by the clock, under valgrind as elsewhere.
    assert (instructions(loop, 12) - instructions(loop, 2)) / 10 < MOST
