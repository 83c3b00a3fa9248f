"""CI's second look: a test that failed among thousands of others runs again by itself.

Machines are shared, many tests load one on purpose, and CI runs tens of thousands: one that fails in a run
of many must not make all the others worthless. Where `UNSTEADY` names a file, one or two tests that failed
run again, each alone and three times. If they pass each time, the run is green, and they are written into
that file and at the end of the run: somebody has to mend them. More than two are no accident; a process
that crashed and a module that cannot be collected get no second look. `make test` never takes one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SecondLook", "register"]

# The most tests that are looked at again, and how often each has to pass.
MOST = 2
TIMES = 3
# Seconds that one of them may take.
LONGEST = 300
# What decides which programs a test starts.
_OPTIONS = ("--transport", "--server-transport", "--client-transport")


def register(config: pytest.Config) -> None:
    """Take second looks in this run, if it is asked for; by the process that has all results."""
    unsteady = os.environ.get("UNSTEADY")
    if unsteady and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SecondLook(config, Path(unsteady)), "second-look")


class SecondLook:
    """Remembers what failed, and runs it again at the end of the session."""

    def __init__(self, config: pytest.Config, unsteady: Path) -> None:
        self._config = config
        self._unsteady = unsteady
        self._failed: dict[str, None] = {}
        self._lost = False  # something went wrong that another run of a test says nothing about
        self._found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed:
            return
        if report.when in ("setup", "call", "teardown"):
            self._failed[report.nodeid] = None
        else:  # what xdist says of a process that is gone
            self._lost = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._lost = self._lost or report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        red = session.exitstatus == pytest.ExitCode.TESTS_FAILED
        if not red or self._lost or not 0 < len(self._failed) <= MOST:
            return
        for test in self._failed:
            for time in range(1, TIMES + 1):
                if not self._passes(test):
                    self._found.append(f"{test}: failed again by itself, the {time}. time")
                    return
            self._found.append(f"{test}: failed once, then passed {TIMES} times by itself")
        self._unsteady.parent.mkdir(parents=True, exist_ok=True)
        with self._unsteady.open("a") as file:
            file.writelines(f"{line}\n" for line in self._found)
        session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._found:
            terminalreporter.section("second look")
            for line in self._found:
                terminalreporter.write_line(line)

    def _passes(self, test: str) -> bool:
        chosen = [
            f"{option}={value}"
            for option in _OPTIONS
            if (value := self._config.getoption(option, None)) is not None
        ]
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", self._config.option.markexpr, *chosen, test),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "UNSTEADY"}
        try:
            done = subprocess.run(
                command, cwd=self._config.invocation_params.dir, env=environment, timeout=LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
