"""The benchmarks with the Go peer at the other end, and with valgrind: do they run at all.

Run by `make test-peers`, which builds the one and installs the other.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.peers


TLS = ("tls", 12 * (2 if find_spec("pymicro_fast") else 1))


def rows(*arguments: str) -> list[str]:
    """What was measured; a missing Go peer is a failure, not a skipped test."""
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [line.split("|")[2].strip() for line in lines[1:]]


@pytest.mark.parametrize(
    ("name", "count"),
    [("control", 8), ("unary", 4), ("ten-nodes", 4), ("server", 4), ("streams", 12), ("intercept", 8), TLS],
)
def test_calls_between_python_and_go(name: str, count: int) -> None:
    assert len(set(rows(name, "--loop", "uvloop"))) == count


@pytest.mark.parametrize("end", ["client", "server"])
def test_instructions_are_counted(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmarks are no part of the wheel.
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import instructions
    from benchmarks.counted import LOADS
    from benchmarks.rounds import Settings

    count = getattr(instructions, end)
    found = count("pymicro", Settings(loop="uvloop"), [40, 200], list(LOADS))

    assert list(found) == list(LOADS)
    # Far more than Python needs to do nothing, and far less than it needs to start.
    assert all(20_000 < cost < 20_000_000 for [cost] in found.values()), found
