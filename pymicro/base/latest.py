"""A value that changes and its readers, none of whom can hold another up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

__all__ = ["Latest"]

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest value of something, for any number of readers.

    A reader sees the value in force and then each newer one; what came and went
    while it was busy it never sees. Not for threads: one event loop only.
    """

    __slots__ = ("_changed", "_closed", "_value", "_version")

    def __init__(self) -> None:
        self._value: T
        self._version = 0
        self._closed = False
        # One event for each version: it is set once and never cleared, so no
        # reader can miss it.
        self._changed = asyncio.Event()

    def set(self, value: T) -> None:
        """Replace the value and wake the readers."""
        self._value = value
        self._version += 1
        self._wake()

    def close(self) -> None:
        """End every reader's loop, after the newest value if it has not seen that."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> AsyncGenerator[T, None]:
        """The value in force, as soon as there is one, then each newer one that is met."""
        seen = 0
        while True:
            if self._version != seen:
                seen = self._version
                yield self._value
            elif self._closed:
                return
            else:
                await self._changed.wait()
