"""The values that were made last, up to a cost in all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache with a bound on what its values cost together.

    `functools.lru_cache` counts entries. Where strangers write what is cached, one entry can be
    a thousand times as large as another.

    Args:
        most: The highest cost of all values together, in the caller's unit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.cost = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of `key`, if it is still here."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, cost: int) -> V:
        """Keep `value`, and drop those that nobody asked for the longest; returns `value`."""
        if cost > self._most:
            return value
        _, before = self._values.pop(key, (None, 0))
        self._values[key] = value, cost
        self.cost += cost - before
        while self.cost > self._most:
            _, (_, freed) = self._values.popitem(last=False)
            self.cost -= freed
        return value
