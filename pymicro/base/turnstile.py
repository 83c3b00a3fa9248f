"""Something that is open as long as anybody uses it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Turnstile"]


class Turnstile:
    """An async context manager that several may enter at a time, as often as they like.

    It opens for its first user and closes behind the last one. Whoever comes while it is
    being opened or closed waits, and finds it open. Inherit from it, and write `_enter`
    and `_leave`.
    """

    def __init__(self) -> None:
        self._users = 0
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def _enter(self) -> None:
        """Open. An error goes to the user who came; the next one who comes opens it anew."""
        raise NotImplementedError

    async def _leave(self) -> None:
        """Close; called once for each time it was opened."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        async with self._turn():
            if not self._is_open:
                await self._enter()
                self._is_open = True
            self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # First, as waiting may be cancelled: whoever has the lock will see it.
        self._users -= 1
        async with self._turn():
            if self._is_open and not self._users:
                self._is_open = False
                await self._leave()

    def _turn(self) -> asyncio.Lock:
        # asyncio's lock belongs for ever to the loop in which somebody first had to wait for
        # it; what is made at import and used by one test after the other sees many loops.
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock
