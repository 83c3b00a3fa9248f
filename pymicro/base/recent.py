"""Values built from what strangers wrote: equal ones are shared, and none is kept for nobody.

`functools.lru_cache` counts entries, and keeps them for ever. Where strangers write what is cached,
one entry can be a thousand times as large as another, and stays when the stranger has gone.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakSet

__all__ = ["Recent", "sweep"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Seconds between two sweeps; what nobody holds and nobody asks for is gone after two of them.
_PERIOD = 25.0


class Recent(Generic[K, V]):
    """A cache with a bound on what its values cost together.

    While the event loop runs, values that only the cache holds are dropped within a minute of the
    last time that somebody asked for them.

    Args:
        most: The highest cost of all values together, in the caller's unit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Value, cost, and the number of the sweep before which somebody asked for it last.
        self._values: OrderedDict[K, tuple[V, int, int]] = OrderedDict()
        self._sweeps = 0
        self._lock = threading.Lock()
        self.cost = 0
        _all.add(self)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of `key`, if it is still here."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            value, cost, asked = found
            if asked != self._sweeps:
                self._values[key] = value, cost, self._sweeps
            self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V, cost: int) -> V:
        """Keep `value`, and drop those that nobody asked for the longest; returns `value`."""
        if cost > self._most:
            return value
        with self._lock:
            _, before, _ = self._values.pop(key, (None, 0, 0))
            self._values[key] = value, cost, self._sweeps
            self.cost += cost - before
            while self.cost > self._most:
                _, (_, freed, _) = self._values.popitem(last=False)
                self.cost -= freed
        _sweep_later()
        return value

    def sweep(self) -> int:
        """Drop what nobody else holds and nobody asked for since the sweep before; returns how many."""
        with self._lock:
            dropped = [
                key
                for key, holders in _holders(self._values).items()
                if holders <= 0 and self._values[key][2] < self._sweeps
            ]
            for key in dropped:
                _, freed, _ = self._values.pop(key)
                self.cost -= freed
            return len(dropped)

    def _count_sweep(self) -> None:
        self._sweeps += 1


def _holders(values: Mapping[Any, tuple[Any, int, int]]) -> dict[Any, int]:
    """How many others than a cache hold each value, as the interpreter counts."""
    found = {}
    for key in values:
        value = values[key][0]
        count = sys.getrefcount(value)
        found[key] = count - (_AS_KEY if value is key else _ALONE)
        del value
    return found


def _counted(as_key: bool) -> int:
    """The count for a value that nothing but a cache holds: it differs between Pythons."""
    values: OrderedDict[Any, tuple[Any, int, int]] = OrderedDict()
    made = object()
    values[made if as_key else 0] = made, 0, 0
    del made
    for key in values:
        value = values[key][0]
        return sys.getrefcount(value)
    raise AssertionError


_ALONE, _AS_KEY = _counted(False), _counted(True)

_all: WeakSet[Recent[Any, Any]] = WeakSet()
_loop: asyncio.AbstractEventLoop | None = None


def sweep() -> None:
    """Drop from all caches what nobody holds and nobody has asked for since the sweep before."""
    caches = list(_all)
    # What one cache drops may have been held as a key by it, and be the value of another.
    while sum(one.sweep() for one in caches):
        pass
    for one in caches:
        one._count_sweep()


def _sweep_later() -> None:
    """Sweep in this event loop; without one, nothing runs for so long that it would matter."""
    global _loop
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    if _loop is not None and not _loop.is_closed():
        return
    _loop = running
    # In an empty context: the caller may be a handler.
    contextvars.Context().run(running.call_later, _PERIOD, _sweep_now)


def _sweep_now() -> None:
    global _loop
    _loop = None
    sweep()
    if any(_all):
        _sweep_later()
