"""Long work that lets others run in between."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Turns"]


class Turns:
    """Lets the event loop turn by elapsed time, within a loop that never waits by itself.

    Awaiting what is there already does not suspend, so a loop over a thousand buffered
    lines would hold up everybody else until its end.

    Args:
        after: Seconds of work before others get their turn.
    """

    def __init__(self, after: float = 0.01) -> None:
        self._after = after
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Let others run, if the time is up."""
        if time.perf_counter() - self._since >= self._after:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
