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
        rest: Whether to rest as long as the work took, so that it takes at most half of what the loop
            can do.
    """

    def __init__(self, after: float = 0.005, *, rest: bool = False) -> None:
        self._after = after
        self._rest = rest
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Let other tasks run, if the time is up."""
        worked = time.perf_counter() - self._since
        if worked >= self._after:
            # Where others worked in between, that was no work of ours.
            await asyncio.sleep(min(worked, 2 * self._after) if self._rest else 0)
            self._since = time.perf_counter()
