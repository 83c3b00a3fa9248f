"""The guards of conftest.py, which all other tests rely on, can fail."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import guarded
from tests.processes import Processes


async def test_a_test_that_leaves_a_task_behind_fails() -> None:
    kept = []

    async def leaves_one() -> None:
        kept.append(asyncio.create_task(asyncio.Event().wait(), name="the one left"))

    with pytest.raises(pytest.fail.Exception, match="the one left"):
        await guarded(leaves_one)()
    kept[0].cancel()


async def test_a_task_that_ends_by_itself_is_no_fault() -> None:
    async def leaves_one_ending() -> None:
        asyncio.get_running_loop().call_later(0.05, stop.set)
        kept.append(asyncio.create_task(stop.wait()))

    stop = asyncio.Event()
    kept: list[asyncio.Task[bool]] = []
    await guarded(leaves_one_ending)()
    assert kept[0].done()


def test_a_process_that_ends_without_the_line_waited_for_fails_with_its_output(processes: Processes) -> None:
    process = processes.python("-c", "print('something else')")
    with pytest.raises(AssertionError, match="something else"):
        process.wait_for("the line")


def test_each_line_is_waited_for_once(processes: Processes) -> None:
    process = processes.python("-c", "print('ready'); print('ready')")
    process.wait_for("ready")
    process.wait_for("ready")
    assert process.wait() == 0
    with pytest.raises(AssertionError):
        process.wait_for("ready")


def test_processes_that_still_run_are_ended(processes: Processes) -> None:
    process = processes.python("-c", "import time; print('up'); time.sleep(600)")
    process.wait_for("up")
    processes.end()
    assert not process.running
