"""Deadlines by the thousand: nearly all of them are called off long before they come."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import Context
from typing import Protocol

__all__ = ["Deadlines", "Watched", "deadlines_of"]

# Seconds. What is further away waits in a set that many share, and gets a timer of its own when its set
# is due. A timer of the loop costs as much as a fifth of a call, and a set's place nearly nothing.
STEP = 0.25


class Watched(Protocol):
    """Something with a deadline.

    Attributes:
        deadline: A moment of the loop's clock.
        watched: Who watches it, set by `Deadlines.watch`; to call it off, `watched.discard(it)`.
    """

    deadline: float
    watched: Watch | None

    def late(self) -> None:
        """The deadline has come."""
        ...


class Watch(Protocol):
    """Who watches something."""

    def discard(self, one: Watched, /) -> None:
        """Watch it no longer."""
        ...


class Deadlines:
    """Calls `late` of what is watched, at its deadline and never before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak: the loop is the key under which this is found.
        self._loop = weakref.ref(loop)
        self._sets: dict[int, set[Watched]] = {}

    def watch(self, one: Watched, now: float) -> None:
        """Watch it from now on.

        Args:
            one: What has a deadline; held until that, or until it is called off.
            now: The loop's time.
        """
        deadline = one.deadline
        if deadline - now < 2 * STEP:
            self._exactly(one)
            return
        step = int(deadline / STEP)
        together = self._sets.get(step)
        if together is None:
            together = self._sets[step] = set()
            self._running().call_at(step * STEP, self._due, step, context=Context())
        together.add(one)
        one.watched = together

    def _due(self, step: int) -> None:
        for one in self._sets.pop(step):
            self._exactly(one)

    def _exactly(self, one: Watched) -> None:
        one.watched = _Exactly(self._running().call_at(one.deadline, one.late, context=Context()))

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None
        return loop


class _Exactly:
    """A timer of the loop."""

    __slots__ = ("_timer",)

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self._timer = timer

    def discard(self, one: Watched, /) -> None:
        self._timer.cancel()


_all: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Deadlines] = weakref.WeakKeyDictionary()


def deadlines_of(loop: asyncio.AbstractEventLoop) -> Deadlines:
    """The one that all of a loop share."""
    try:
        return _all[loop]
    except KeyError:
        return _all.setdefault(loop, Deadlines(loop))
