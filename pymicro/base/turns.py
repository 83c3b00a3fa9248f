"""Long work that lets other tasks run in between."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Turns"]


class Turns:
    """Lets the event loop turn after some time, within a loop that never waits by itself.

    Awaiting something that is already there does not suspend. So a loop over a thousand
    buffered lines would hold up all other tasks until its end.

    Args:
        after: Seconds of work before other tasks get their turn.
    """

    def __init__(self, after: float = 0.005) -> None:
        self._after = after
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Let other tasks run, if the time is up."""
        if time.perf_counter() - self._since >= self._after:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
