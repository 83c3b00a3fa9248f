"""Virtual time: what happens next, and when."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

__all__ = ["World"]


class World:
    """A queue of events in the order of their moments; those of one moment in the order they were planned.

    Attributes:
        now: Seconds since the beginning.
    """

    __slots__ = ("_events", "_numbers", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count()

    def clock(self) -> float:
        """The moment, as pymicro's modules ask for it."""
        return self.now

    def at(self, moment: float, event: Callable[..., None], *arguments: Any) -> None:
        """Let `event(*arguments)` happen at `moment`, or now if that is past."""
        heappush(self._events, (max(moment, self.now), next(self._numbers), event, arguments))

    def run(self, until: float) -> None:
        """Let everything happen that is to happen before `until`."""
        events = self._events
        while events and events[0][0] < until:
            self.now, _, event, arguments = heappop(events)
            event(*arguments)
        self.now = until
