"""What the soak tells at its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.transports import ENDS

SAID = pytest.StashKey[list[str]]()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at the end of the run."""
    return request.config.stash.setdefault(SAID, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if said := config.stash.get(SAID, []):
        terminalreporter.section(f"soak, client {ENDS.client}, server {ENDS.server}")
        for line in said:
            terminalreporter.write_line(line)
