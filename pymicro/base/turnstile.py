"""Something that is open while anybody uses it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Turnstile"]


class Turnstile:
    """An async context manager that several users may enter at a time, as often as they like.

    It opens for its first user and closes after the last one. A user who comes while it
    opens or closes waits, and then finds it open. Inherit from it, and write `_enter` and
    `_leave`.
    """

    def __init__(self) -> None:
        self._users = 0
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def _enter(self) -> None:
        """Open. An error goes to the user who came; the next user opens it anew."""
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
        # This comes first, because the wait may be cancelled: the holder of the lock will see it.
        self._users -= 1
        async with self._turn():
            if self._is_open and not self._users:
                self._is_open = False
                await self._leave()

    def _turn(self) -> asyncio.Lock:
        # asyncio's lock belongs for ever to the loop in which somebody first waited for it. But an
        # object made at import and used by one test after another sees many loops.
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock
