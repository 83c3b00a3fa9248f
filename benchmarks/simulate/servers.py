"""Modelled nodes: so many calls at a time, a queue, a distribution of work, and ways to fail."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from benchmarks.simulate.world import World
from pymicro.nodes.node import Node

__all__ = ["INTERNAL", "OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "Attempt", "Mode", "Server", "Work"]
__all__ += ["constant", "exponential", "lognormal", "normal", "pauses"]

OK, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 0, 8, 13, 14

# Seconds of a call on which nobody works: refused, or failing at once.
AT_ONCE = 0.001

Work = Callable[[], float]
"""Seconds of work of one call, the network included."""


def constant(mean: float) -> Work:
    return lambda: mean


def exponential(mean: float, rng: random.Random) -> Work:
    rate, draw = 1.0 / mean, rng.expovariate
    return lambda: draw(rate)


def lognormal(median: float, spread: float, rng: random.Random) -> Work:
    """`spread` is the standard deviation of the logarithm: at 0.5 the 99th percentile is 3.2 medians."""
    draw = rng.lognormvariate
    return lambda: median * draw(0.0, spread)


def normal(mean: float, deviation: float, rng: random.Random) -> Work:
    draw = rng.gauss
    return lambda: max(mean / 10, draw(mean, deviation))


def pauses(every: float, length: float, until: float, rng: random.Random) -> list[tuple[float, float]]:
    """Moments from and to which a process stands still, at random with a mean of `every` seconds between."""
    found = []
    moment = rng.expovariate(1.0 / every)
    while moment < until:
        found.append((moment, moment + length))
        moment += length + rng.expovariate(1.0 / every)
    return found


class Mode(Enum):
    SERVES = "serves"
    FAILS = "answers INTERNAL at once"
    SHEDS = "answers RESOURCE_EXHAUSTED at once, and that nothing has run"
    SWALLOWS = "answers nothing"


class Attempt(Protocol):
    """A call on a server, as the server sees it."""

    over: bool
    deadline: float

    def end(self, code: int, may_have_run: bool = True) -> None: ...

    def time_out(self) -> None: ...


class Server:
    """One node.

    Args:
        world: Whose time it lives in.
        node: How clients know it.
        work: How long calls take.
        slots: Calls it works on at a time; others queue.
        stands: Moments from and to which it stands still, in order.

    Attributes:
        mode: What it does with new calls.
        slowness: How many times longer than `work` says calls take that begin now; a function of the moment.
        arrived: Attempts it has got so far.
    """

    def __init__(
        self,
        world: World,
        node: Node,
        work: Work,
        *,
        slots: int = 1_000_000,
        stands: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.world = world
        self.node = node
        self.work = work
        self.slots = slots
        self.mode = Mode.SERVES
        self.slowness: Callable[[float], float] | None = None
        self.arrived = 0
        self._stands = stands
        self._wakes = [wakes for _, wakes in stands]
        self._busy = 0
        self._queue: deque[Attempt] = deque()

    def submit(self, attempt: Attempt) -> None:
        """A call arrives."""
        self.arrived += 1
        world = self.world
        if self.mode is Mode.SERVES:
            if self._busy < self.slots:
                self._start(attempt)
            else:
                self._queue.append(attempt)
                world.at(attempt.deadline, attempt.time_out)
        elif self.mode is Mode.FAILS:
            world.at(world.now + AT_ONCE, attempt.end, INTERNAL)
        elif self.mode is Mode.SHEDS:
            world.at(world.now + AT_ONCE, attempt.end, RESOURCE_EXHAUSTED, False)
        else:
            world.at(attempt.deadline, attempt.time_out)

    def _start(self, attempt: Attempt, queued: bool = False) -> None:
        self._busy += 1
        world = self.world
        work = self.work()
        if self.slowness is not None:
            work *= self.slowness(world.now)
        end = self._end(world.now, work)
        world.at(end, self._finish, attempt)
        if end > attempt.deadline and not queued:
            world.at(attempt.deadline, attempt.time_out)

    def _end(self, begin: float, work: float) -> float:
        end = begin + work
        for stops, wakes in self._stands[bisect_right(self._wakes, begin) :]:
            if stops >= end:
                break
            end += wakes - max(stops, begin)
        return end

    def _finish(self, attempt: Attempt) -> None:
        self._busy -= 1
        queue = self._queue
        while queue:
            waiting = queue.popleft()
            if not waiting.over:  # else its deadline has passed: shed
                self._start(waiting, queued=True)
                break
        attempt.end(OK)
