"""What holds an event loop is named in the log: loops that are really held, on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pymicro.base import watchdog
from pymicro.base.watchdog import BEAT, stood_still, watched
from tests.processes import ROOT

LIMIT = 0.05
# Whether what holds a loop may let it go.
Done = Callable[[], bool]
# It looks at each way to split the letters: half a second, in which Python's lock is kept.
SLOW = re.compile("(a+)+$")
LETTERS = "a" * 22 + "b"


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Runs coroutines in one loop, one after the other."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


class Lines(logging.Handler):
    """The lines in the log, where another thread sees them at once.

    On a machine that is busy enough every loop stands still now and then, so there may be
    more of them than a test has made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def naming(self, *words: str) -> list[str]:
        """The lines that have all of these words."""
        return [line for line in self.lines if all(word in line for word in words)]

    async def until(self, *words: str) -> str:
        """The first of those, as soon as there is one."""
        while not (found := self.naming(*words)):  # noqa: ASYNC110 - a thread writes them
            await asyncio.sleep(0.01)
        return found[0]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """As many lines as there can be, so that what holds the loop can wait for one."""
    monkeypatch.setattr(watchdog, "QUIET", 0.0)
    lines = Lines()
    logging.getLogger("pymicro.loop").addHandler(lines)
    yield lines
    logging.getLogger("pymicro.loop").removeHandler(lines)


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pymicro watchdog"]


# Ways to hold a loop until it may go on; each is named in the log by one line.


def spins(done: Done) -> None:
    while not done():
        sum(range(100_000))  # held here


def sleeps(done: Done) -> None:
    while not done():
        time.sleep(0.05)  # held here


def matches(done: Done) -> None:
    while not done():
        SLOW.match(LETTERS)  # held here


def reads(done: Done) -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        while not done():
            time.sleep(0.01)
        theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with ours, ours.makefile() as lines:
        lines.readline()  # held here
    thread.join()


def held_at(function: Callable[..., Any]) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(place for place, line in enumerate(lines) if "# held here" in line)


@pytest.mark.parametrize("hold", [spins, sleeps, matches, reads])
def test_the_code_that_holds_the_loop_is_named(
    loop: asyncio.Runner, said: Lines, hold: Callable[[Done], None]
) -> None:
    place = f" in {hold.__name__} ({__file__}:{held_at(hold)}), called by "

    async def handler() -> None:
        hold(lambda: bool(said.naming(place)))

    async def main() -> str:
        with watched(LIMIT):
            await asyncio.create_task(handler())
            return await said.until("the event loop stood still for ", place)

    line = loop.run(main())
    assert f"{place}{handler.__qualname__} ({__file__}:" in line
    assert "await asyncio.to_thread(…)" in line
    assert "plain `def`" in line


def test_a_loop_that_stays_held_is_told_before_it_goes_on(loop: asyncio.Runner, said: Lines) -> None:
    async def main() -> None:
        with watched(LIMIT):
            sleeps(lambda: bool(said.naming("the event loop has stood still for ", " in sleeps (")))

    loop.run(main())


def test_one_line_in_a_while_counts_the_others(
    loop: asyncio.Runner, said: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hold() -> None:
        """Hold the loop once so that it is noticed."""
        begun, noticed = time.monotonic(), 0.0
        while not noticed:
            time.sleep(0.2)  # noqa: ASYNC251 - this is the fault
            await asyncio.sleep(2 * BEAT)
            noticed = stood_still(begun)

    async def main() -> None:
        with watched(LIMIT):
            for _ in range(3):
                await hold()
            assert len(said.lines) == 1
            monkeypatch.setattr(watchdog, "QUIET", 0.0)
            await hold()

    monkeypatch.setattr(watchdog, "QUIET", 3600.0)
    loop.run(main())
    found = re.search(r"; (\d+) more since the last such line$", said.lines[1])
    assert found is not None
    assert int(found[1]) >= 2


def test_how_long_it_stood_still_is_known_at_once_and_later(loop: asyncio.Runner, said: Lines) -> None:
    async def main() -> tuple[float, float, float]:
        with watched(LIMIT):
            await asyncio.sleep(0)
            begun = time.monotonic()
            sleeps(lambda: bool(said.naming(" in sleeps (")))
            at_once = stood_still(begun)
            await said.until("the event loop stood still for ", " in sleeps (")
            return at_once, stood_still(begun), stood_still(time.monotonic())

    at_once, later, since_then = loop.run(main())
    assert LIMIT < at_once <= later
    assert since_then < later


def test_a_loop_that_is_not_run_does_not_stand_still(loop: asyncio.Runner, said: Lines) -> None:
    limit = 1.0
    contexts = watched(limit)

    async def enter() -> None:
        contexts.__enter__()

    async def leave() -> None:
        await asyncio.sleep(2 * BEAT)
        contexts.__exit__(None, None, None)

    loop.run(enter())
    time.sleep(limit + 3 * BEAT)  # as between two tests that share a loop
    loop.run(leave())
    assert said.lines == []


def test_all_who_want_a_loop_watched_share_a_thread_and_the_last_ends_it(
    loop: asyncio.Runner, said: Lines
) -> None:
    async def main() -> None:
        with watched(10 * LIMIT):
            with watched(LIMIT):
                assert len(watchdogs()) == 1
                sleeps(lambda: bool(said.lines))
            assert len(watchdogs()) == 1
        assert watchdogs() == []
        with watched(0):
            assert watchdogs() == []

    loop.run(main())


def test_each_loop_has_its_own(said: Lines) -> None:
    meet = threading.Barrier(2)

    async def main() -> None:
        with watched(LIMIT):
            meet.wait()
            meet.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    with asyncio.Runner() as runner:
        thread.start()
        meet.wait()

        async def both() -> int:
            with watched(LIMIT):
                return len(watchdogs())

        assert runner.run(both()) == 2
        meet.wait()
        thread.join()
    assert watchdogs() == []


def test_the_thread_of_a_loop_that_was_closed_ends(said: Lines) -> None:
    contexts = watched(LIMIT)

    async def enter() -> None:
        contexts.__enter__()

    runner = asyncio.Runner()
    runner.run(enter())
    (thread,) = watchdogs()
    runner.close()
    thread.join()


CHILD = """
import asyncio, os, sys, threading
from pymicro.base.watchdog import watched

async def child():
    with watched(0.02):
        await asyncio.sleep(0.3)
        assert threading.active_count() == 2

async def main():
    with watched(0.02):
        await asyncio.sleep(0)
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert threading.active_count() == 1
        asyncio.run(child())
        os._exit(threading.active_count() - 1)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_no_such_thread_and_lives() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


BUSY = """
import asyncio, logging, sys
from pymicro.base.watchdog import watched

async def main():
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    with watched(0.3):
        print("runs", flush=True)
        while True:
            await asyncio.sleep(0)

asyncio.run(main())
"""


def test_a_process_that_was_suspended_blames_no_code() -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.extend(process.stdout or ()))
    try:
        assert process.stdout.readline() == "runs\n"
        reader.start()
        while not heard:
            process.send_signal(signal.SIGSTOP)
            time.sleep(2)  # suspended
            process.send_signal(signal.SIGCONT)
            time.sleep(0.5)  # and running
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
    assert "this process was suspended" in heard[0]


def test_of_an_installed_program_the_handler_is_named_and_not_what_it_calls(
    loop: asyncio.Runner, said: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "lib" / "site-packages"
    for name, text in {
        "shop/service.py": "import shop.store\nasync def handler(*args):\n    shop.store.read(*args)\n",
        "shop/store.py": "import driver\ndef read(hold, done):\n    driver.query(hold, done)\n",
        "driver.py": "def query(hold, done):\n    hold(done)\n",
        "patient.py": "import time\ndef wait(done):\n    while not done():\n        time.sleep(0.05)\n",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(str(site))
    for name in ("patient", "driver", "shop", "shop.service", "shop.store"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import patient  # type: ignore[import-not-found]
    from shop.service import handler  # type: ignore[import-not-found]

    place = f" in read ({site}/shop/store.py:3), called by handler ({site}/shop/service.py:3): "

    async def main() -> None:
        with watched(LIMIT):
            await asyncio.create_task(handler(patient.wait, lambda: bool(said.naming(place))))
            await said.until("the event loop stood still for ", place)

    loop.run(main())
