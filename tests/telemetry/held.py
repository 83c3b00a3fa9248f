"""How long the loop is held by one step of somebody else's, in CPU time: a busy machine changes nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Held:
    """Attributes:
    longest: Seconds of CPU time.
    """

    def __init__(self) -> None:
        self.longest = 0.0


@asynccontextmanager
async def held() -> AsyncIterator[Held]:
    found = Held()

    async def look() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            found.longest = max(found.longest, now - last)
            last = now

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    # A collection of all that a test run has made takes longer than what is measured.
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()
        looking.cancel()
