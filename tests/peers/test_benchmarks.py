"""The benchmarks with the Go peer at the other end, and with valgrind: do they run at all.

Run by `make test-peers`, which builds the one and installs the other.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.peers


def rows(*arguments: str) -> list[str]:
    """What was measured; a missing Go peer is a failure, not a skipped test."""
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [line.split("|")[2].strip() for line in lines[1:]]


@pytest.mark.parametrize(
    ("name", "count"),
    [("control", 8), ("unary", 4), ("ten-nodes", 4), ("server", 4), ("streams", 12), ("intercept", 8)],
)
def test_calls_between_python_and_go(name: str, count: int) -> None:
    assert len(set(rows(name, "--loop", "uvloop"))) == count


def test_instructions_are_counted() -> None:
    assert rows("instructions", "--loop", "asyncio") == [
        f"{end}, {load}, asyncio"
        for end in ("channel", "server")
        for load in (
            "1 in flight",
            "64 in flight",
            "calls that stream one message",
            "1 in flight, one interceptor",
        )
    ]
