"""What the chaos tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.processes import Processes


@pytest.fixture
def fleet(processes: Processes, tmp_path: Path) -> Iterator[Fleet]:
    """Nodes of this test's own; they end with it, at once."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    yield Fleet(processes, folder)
    for process in processes.started:
        process.signal(signal.SIGKILL)
