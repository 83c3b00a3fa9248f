"""How long the loop is held by one step of somebody else's, in CPU time: a busy machine changes little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.heap import frozen_heap
from tests.machine import least_cpu


async def least_held(work: Callable[[], Awaitable[object]], bar: float) -> float:
    """The longest step while this work is done, in seconds of CPU at full speed: the least of some times."""
    # A collection of all that a test run has made takes longer than what is measured.
    with frozen_heap():
        return await least_cpu(lambda: _longest(work), bar)


async def _longest(work: Callable[[], Awaitable[object]]) -> float:
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    try:
        await work()
    finally:
        looking.cancel()
    return longest
