"""Work that nothing ends but its cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from pymicro.base.endless import endless

log = logging.getLogger("pymicro.test")


class Turns:
    """Turns that do what a script says, and then wait for ever."""

    def __init__(self, *script: float | BaseException) -> None:
        self.pauses: list[float] = []
        self.over = asyncio.Event()
        self._script: Iterator[float | BaseException] = iter(script)

    async def take(self) -> float:
        said = next(self._script, None)
        if said is None:
            self.over.set()
            await asyncio.Event().wait()
        if isinstance(said, BaseException):
            raise said
        assert said is not None
        return said

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if seconds == 13.0:
            raise OSError("no timers left")

    async def run(self, *, delay: float = 0.0) -> None:
        """Until the script is over; then cancel."""
        work = endless(self.take, what="work", log=log, pause=7.0, delay=delay, sleep=self.sleep)
        task = asyncio.create_task(work)
        over = asyncio.create_task(self.over.wait())
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED, timeout=5.0)
        assert over.done()
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_turns_come_after_the_pauses_that_they_ask_for() -> None:
    turns = Turns(0.0, 2.0, 0.0, 3.0)
    await turns.run(delay=1.0)
    assert turns.pauses == [1.0, 2.0, 3.0]


async def test_no_turn_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    failures = KeyError("bug"), RecursionError(), MemoryError(), asyncio.CancelledError(), TimeoutError()
    turns = Turns(*failures, 13.0, 1.0)
    await turns.run()
    assert turns.pauses == [*[7.0] * len(failures), 13.0, 7.0, 1.0]
    # The sleep of 13 s failed as well.
    assert caplog.text.count("work failed; trying again in 7.0 s") == len(failures) + 1
    assert "KeyError: 'bug'" in caplog.text


async def test_not_even_a_log_that_fails_ends_it() -> None:
    def broken(_: logging.LogRecord) -> bool:
        raise ValueError("a filter of the program's")

    log.addFilter(broken)
    try:
        await Turns(KeyError("bug"), KeyError("bug"), 0.0).run()
    finally:
        log.removeFilter(broken)


async def test_a_failure_in_place_of_the_cancellation_does_not_keep_it_alive() -> None:
    began = asyncio.Event()

    async def clumsy() -> float:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot be cleaned up")

    task = asyncio.create_task(endless(clumsy, what="work", log=log, pause=7.0))
    await began.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=5.0)
    assert task.cancelled()
