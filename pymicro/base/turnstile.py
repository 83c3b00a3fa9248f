"""Something that is open as long as anybody uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Turnstile"]


class Turnstile:
    """Opens something for its first user and closes it behind the last, as often as that happens.

    Who comes while it is being opened or closed waits, and finds it open.

    Args:
        open: What it raises is for who came; who comes next opens it anew.
        close: Called once for each time it was opened.
    """

    def __init__(self, open: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]) -> None:
        self._open = open
        self._close = close
        self._users = 0
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def enter(self) -> None:
        """Come in."""
        async with self._turn():
            if not self._is_open:
                await self._open()
                self._is_open = True
            self._users += 1

    async def leave(self) -> None:
        """Go; to be called once for each `enter`."""
        # First, as waiting may be cancelled: whoever has the lock will see it.
        self._users -= 1
        async with self._turn():
            if self._is_open and not self._users:
                self._is_open = False
                await self._close()

    def _turn(self) -> asyncio.Lock:
        # asyncio's lock belongs for ever to the loop in which somebody first had to wait for
        # it; what is made at import and used by one test after the other sees many loops.
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock
