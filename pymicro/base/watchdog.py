"""Notices that an event loop stands still, and says in the log what holds it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from pymicro.base.loggers import logger
from pymicro.base.places import CodePlace, depth, place_of
from pymicro.base.recorder import Durations

__all__ = ["stood_still", "watched"]

log = logger("pymicro.loop")

# Seconds between two signs of life of a loop, which is how exactly a standstill is measured. Signs and
# the thread together take 360,000 instructions a second on asyncio and 120,000 on uvloop (callgrind):
# 0.02 % of what a core does.
BEAT = 0.1
# Seconds between two looks at a loop that stands still, and at least between two lines in the log.
LOOK = 0.1
QUIET = 10.0
# How many of the last standstills are remembered.
KEPT = 16
# A process that had less than this part of a standstill on a CPU did not run. On a busy machine code
# that runs may get little more.
_STARVED = 8

_ADVICE = (
    "what blocks belongs into a thread: `await asyncio.to_thread(…)`, or a handler that is a plain `def`"
)
_ABSENT = "no code was seen to hold it, so this process was suspended, got no CPU, or Python's lock was kept"

_watchdogs: dict[asyncio.AbstractEventLoop, _Watchdog] = {}


class _Watchdog:
    """Watches the running event loop from a thread.

    The loop gives a sign of life at every BEAT. The thread sleeps until the next sign could be
    late, about twice a second with a limit of 0.5 s, and looks at the loop's stack only if it is.

    Attributes:
        limit: Seconds that the loop may stand still.
        users: How many want it watched.
        records: Where it is counted how late the signs of life came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self.limit = limit
        self.users = 0
        self.records: list[Durations] = []
        self._loop = loop
        self._ident = threading.get_ident()
        self._below = 0
        self._due = time.monotonic() + BEAT
        self._used = time.process_time()
        # What the thread saw in the present standstill: the same line most of the time, or None
        # where no code was to blame.
        self._seen: Counter[CodePlace | None] = Counter()
        self._stalls: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._told = -inf
        self._untold = 0
        self._left = threading.Lock()
        self._left.acquire()
        self._thread = threading.Thread(target=self._watch, name="pymicro watchdog", daemon=True)
        self._thread.start()
        self._timer: asyncio.Handle = loop.call_soon(self._beat)

    def stop(self) -> None:
        """End the thread, and the signs of life."""
        self._timer.cancel()
        self._left.release()
        # Bounded: the thread may be in a log handler that waits for this loop.
        self._thread.join(1)

    def stood_still(self, since: float) -> float:
        """Seconds that the loop has stood still since this moment."""
        now = time.monotonic()
        stalls = [*self._stalls, (self._due, now)] if now - self._due > self.limit else self._stalls
        return sum(max(0.0, end - max(begun, since)) for begun, end in stalls)

    # In the loop

    def _beat(self) -> None:
        now, due = time.monotonic(), self._due
        self._below = depth(sys._getframe()) - 1
        self._due = now + BEAT
        self._used = time.process_time()
        self._timer = self._loop.call_later(BEAT, self._beat)
        for record in self.records:
            record.add(max(0.0, now - due))
        seen = self._seen
        if seen:
            self._seen = Counter()
        if now - due > self.limit:
            self._stalls.append((due, now))
            if now - self._told >= QUIET:
                self._tell("stood", now, due, seen or Counter([None]))
            elif self._told < due:
                self._untold += 1

    # In the thread

    def _watch(self) -> None:
        wait = self.limit
        while not self._loop.is_closed():
            begun = time.monotonic()
            if self._left.acquire(timeout=wait):
                return
            now = time.monotonic()
            if not self._loop.is_running():
                # It may be run again, as where two tests share a loop.
                self._due, wait = now + BEAT, self.limit
                continue
            due = self._due
            if now - due < self.limit:
                wait = self.limit - (now - due)
                continue
            # If this thread did not run either, and hardly anybody in this process did, no code is to
            # blame. Where somebody did, it was code that keeps Python's lock, a regular expression say.
            overslept, used = now - begun - wait, time.process_time() - self._used
            absent = 2 * overslept > now - due > _STARVED * used
            wait = LOOK
            place = None if absent else place_of(sys._current_frames().get(self._ident), self._below)
            if self._due != due:
                continue  # it goes on
            self._seen[place] += 1
            if min(now - due, now - self._told) >= QUIET:
                self._tell("has stood", now, due, self._seen)
        _watchdogs.pop(self._loop, None)

    def _tell(self, stood: str, now: float, due: float, seen: Counter[CodePlace | None]) -> None:
        ((place, _),) = seen.most_common(1)
        # It stood still since some moment between its last sign and the one that was due.
        seconds = now - due + BEAT / 2
        more = f"; {self._untold} more since the last such line" if self._untold else ""
        self._told, self._untold = now, 0
        if place is None:
            log.warning("the event loop %s still for %.1f s: %s%s", stood, seconds, _ABSENT, more)
        else:
            where = f"in {place}: nothing else ran in it; {_ADVICE}"
            log.warning("the event loop %s still for %.1f s %s%s", stood, seconds, where, more)


@contextmanager
def watched(limit: float, record: Durations | None = None) -> Iterator[None]:
    """Log a warning whenever the running loop has stood still for longer than `limit` seconds.

    Where there is a `record`, it gets how much later than meant the loop did what was due, ten times
    a second.

    All who want a loop watched share one thread, and the smallest of their limits. Of several
    standstills in 10 s the first is told. 0 watches nothing.
    """
    if not limit:
        yield
        return
    loop = asyncio.get_running_loop()
    watchdog = _watchdogs.get(loop)
    if watchdog is None:
        try:
            watchdog = _watchdogs[loop] = _Watchdog(loop, limit)
        except RuntimeError as exc:  # no thread can be started: no reason to serve nobody
            log.warning("nobody watches the event loop: %s", exc)
            yield
            return
    watchdog.limit = min(watchdog.limit, limit)
    watchdog.users += 1
    if record is not None:
        watchdog.records.append(record)
    try:
        yield
    finally:
        if record is not None:
            watchdog.records.remove(record)
        watchdog.users -= 1
        if not watchdog.users:
            _watchdogs.pop(loop, None)
            watchdog.stop()


def stood_still(since: float) -> float:
    """Seconds that the running event loop has stood still since a moment of `time.monotonic()`.

    Only standstills longer than the watchdog's limit count; 0 if nobody watches the loop.
    """
    watchdog = _watchdogs.get(asyncio.get_running_loop())
    return watchdog.stood_still(since) if watchdog is not None else 0.0
