"""`.ci/steps.sh`: steps within the budget of their part, and builds beside them, end as they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, clean_environment


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


class Run:
    """A script of steps, in a process group of its own."""

    def __init__(self, checkout: Path, steps: str) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", f"set -euo pipefail; source {ROOT}/.ci/steps.sh\n{steps}"],
            cwd=checkout,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        for printed in self.process.stdout:
            if printed.strip() == line:
                return
        raise AssertionError(f"{line!r} was not printed")

    def end(self) -> tuple[int, str]:
        # It ends when nobody can print any more: when all that the steps started has ended, too.
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@pytest.fixture
def started() -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


def run(started: list[Run], checkout: Path, steps: str) -> Run:
    started.append(Run(checkout, steps))
    return started[-1]


def test_each_step_and_each_part_is_printed_with_its_time(started: list[Run], checkout: Path) -> None:
    steps = """
    part 4 "the first"
    build "a program" sh -c 'echo "made it"'
    step "one" true
    part 2 "the second"
    built "a program"
    step "two" sh -c 'echo "2 runs"'
    finish
    """
    status, output = run(started, checkout, steps).end()
    assert status == 0, output
    assert "2 runs" in output
    assert "made it" in output
    table = output.partition("=== all passed in ")[2].splitlines()[1:]
    assert [(line.split(" s ")[1].split()) for line in table] == [
        ["one"],
        ["of", "240", "the", "first"],
        ["build", "of", "a", "program"],
        ["two"],
        ["of", "120", "the", "second"],
        ["clean", "checkout"],
    ]


def test_a_step_over_the_budget_of_its_part_is_ended_with_all_it_started(
    started: list[Run], checkout: Path
) -> None:
    steps = """
    part 1 "short"
    part_seconds=1
    step "slow" sh -c 'sleep 600 | sleep 600'
    step "never" true
    """
    status, output = run(started, checkout, steps).end()
    assert status == 1
    assert '=== FAILED: slow: after 1 s the budget of "short", 0 min, is used up' in output
    assert "never" not in output


def test_a_part_has_one_budget_for_all_its_steps(started: list[Run], checkout: Path) -> None:
    steps = """
    part 1 "short"
    part_seconds=2
    step "fits" sleep 1
    step "fits no more" sleep 600
    """
    status, output = run(started, checkout, steps).end()
    assert status == 1
    assert "--- fits: ok" in output
    assert "=== FAILED: fits no more: after" in output


def test_a_step_that_fails_ends_the_run(started: list[Run], checkout: Path) -> None:
    status, output = run(started, checkout, 'part 1 "p"; step "bad" sh -c "exit 3"; step "never" true').end()
    assert status == 1
    assert re.search(r"^=== FAILED: bad, after \d+ s with status 3 \(sh -c exit 3\)$", output, re.MULTILINE)
    assert "never" not in output


@pytest.mark.parametrize("waited_for", ['built "bad"', "finish"])
def test_a_build_that_fails_says_what_it_printed(started: list[Run], checkout: Path, waited_for: str) -> None:
    steps = f"part 1 p; build bad sh -c 'echo why >&2; exit 3'; step fine true; {waited_for}"
    status, output = run(started, checkout, steps).end()
    assert status == 1
    assert "why\n" in output
    assert "=== FAILED: build of bad" in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_step_and_no_build_behind(
    started: list[Run], checkout: Path, how: signal.Signals
) -> None:
    steps = "part 9 p; build slow sleep 600; step long sh -c 'echo begun; sleep 600'"
    interrupted = run(started, checkout, steps)
    interrupted.wait_for("begun")
    os.killpg(interrupted.process.pid, how)
    status, _ = interrupted.end()
    assert status == 128 + how


def test_a_file_that_git_sees_after_the_checks_is_a_failure(started: list[Run], checkout: Path) -> None:
    status, output = run(started, checkout, 'part 1 p; step "one" touch left; finish').end()
    assert status == 1
    assert "?? left" in output
    assert "=== FAILED: clean checkout" in output


def test_what_can_not_be_had_is_missing(started: list[Run], checkout: Path) -> None:
    # Who is not root cannot have it installed.
    steps = "part 1 p; id() { echo 1000; }; step tools have sh:dash nothing-of-that-name:x"
    status, output = run(started, checkout, steps).end()
    assert status == 1
    assert "missing: nothing-of-that-name" in output
    assert "missing: sh" not in output
