"""The newest value of something, or why there is none; slow readers hold nobody up."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

__all__ = ["Gathering", "Latest"]

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest value of something, for any number of readers.

    A reader sees the present value and then each newer one. It never sees a value that
    came and went while it was busy. Errors come in two kinds. `fail` reaches those who
    read at that moment, and the next value may follow. `close` with an error is the
    end: later readers get it too. Not for threads: one event loop only.
    """

    __slots__ = ("_changed", "_closed", "_end", "_failure", "_failures", "_stale", "_value", "_version")

    def __init__(self) -> None:
        self._value: T
        self._version = 0
        # The last failure, until a value comes after it; and the number of failures so far.
        self._failure: Exception | None = None
        self._failures = 0
        # Whether the value must not be given out, because a failure came after it.
        self._stale = False
        self._closed = False
        self._end: Exception | None = None
        # One event for each version: it is set once and never cleared, so no reader can
        # miss it.
        self._changed = asyncio.Event()

    def set(self, value: T) -> None:
        """Replace the value and wake the readers. This ends a failure that made the last value stale."""
        self._value = value
        self._version += 1
        if self._stale:
            self._stale, self._failure = False, None
        self._wake()

    def fail(self, error: Exception, *, stands: bool = False) -> None:
        """Raise `error` to all present readers, and to no later ones.

        Args:
            error: Each reader gets a copy, because raising adds a traceback to an error.
            stands: Whether the value is still good. If not, a later reader waits for the
                next value or the next failure.
        """
        self._failure = error
        self._failures += 1
        self._stale = not stands
        self._wake()

    def close(self, error: Exception | None = None) -> None:
        """End every reader's loop: after the newest value, or at once with a copy of `error`."""
        self._closed = True
        self._end = error
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> AsyncGenerator[T, None]:
        """The present value, as soon as there is one, then each newer one (a slow reader misses some)."""
        seen = 0
        # A new reader does not hear of an earlier failure, only of the next one.
        failures = self._failures
        while True:
            if self._end is not None:
                raise copy.copy(self._end)
            if self._version != seen and not self._stale:
                seen = self._version
                yield self._value
            elif self._failures != failures and self._failure is not None:
                raise copy.copy(self._failure)
            elif self._closed:
                return
            else:
                await self._changed.wait()


class Gathering:
    """Publishes changes: a lone one at once, and many in a short time together.

    Args:
        publish: Publishes the present state.
        pause: Least seconds between two publications that `soon` asks for.
    """

    def __init__(self, publish: Callable[[], object], pause: float) -> None:
        self._publish = publish
        self._pause = pause
        # A moment of the loop's clock.
        self._published = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Something has changed: publish when the loop turns, or `pause` after the last publication.

        A lone change does not wait. With a pause of 50 ms, a thousand changes a second are
        published twenty times a second.
        """
        self._publish_at(self._published + self._pause)

    def later(self) -> None:
        """Publish in `pause` seconds, together with the changes until then."""
        self._publish_at(asyncio.get_running_loop().time() + self._pause)

    def now(self) -> None:
        """Publish at once."""
        self.cancel()
        self._published = asyncio.get_running_loop().time()
        self._publish()

    def cancel(self) -> None:
        """Do not publish what `soon` or `later` asked for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _publish_at(self, moment: float) -> None:
        if self._timer is not None and self._timer.when() <= moment:
            return
        self.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(moment, loop.time()), self.now)
