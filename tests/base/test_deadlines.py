"""Deadlines: none comes early, none is lost, and what was called off is let go."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from pymicro.base.deadlines import STEP, Deadlines, Watch, deadlines_of


class One:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.watched: Watch | None = None
        self.at: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def late(self) -> None:
        self.at.set_result(asyncio.get_running_loop().time())


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.01, 2 * STEP, 2 * STEP + 0.01, 3 * STEP])
async def test_a_deadline_comes_when_it_is_due_and_not_before(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    one = One(now + seconds)
    Deadlines(loop).watch(one, now)
    async with asyncio.timeout(30):
        # A timer of the loop may run its clock's resolution early, as any timer may.
        assert await one.at >= one.deadline - 0.002


@pytest.mark.parametrize("seconds", [0.05, 3 * STEP])
async def test_one_that_is_called_off_never_comes_and_is_let_go(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    deadlines = Deadlines(loop)
    off, on = One(now + seconds), One(now + seconds)
    for one in (off, on):
        deadlines.watch(one, now)
    assert off.watched is not None
    off.watched.discard(off)
    gone, future = weakref.ref(off), off.at
    del off, one
    async with asyncio.timeout(30):
        await on.at
    gc.collect()
    assert (gone(), future.done()) == (None, False)


async def test_all_of_a_loop_share_one() -> None:
    loop = asyncio.get_running_loop()
    assert deadlines_of(loop) is deadlines_of(loop)
