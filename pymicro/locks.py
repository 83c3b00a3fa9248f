"""A lock that outlives event loops."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["LoopLock"]


class LoopLock:
    """An `asyncio.Lock` of its own for each event loop, one loop after the other.

    asyncio's belongs for ever to the loop in which somebody first had to wait for it. What
    is made at import and used by one test after the other sees many loops.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        await self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
