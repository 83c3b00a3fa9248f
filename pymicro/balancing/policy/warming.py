"""Slow start: a new node's share of the calls grows from a little to all of it."""

from __future__ import annotations

__all__ = ["Warming"]

# Envoy's `min_weight_percent`: a node without any calls would never get warm.
LEAST = 0.1


class Warming:
    """Which nodes are warming up, and how far they are.

    A node's share rises in a straight line from 10 % to 100 % within the given time
    (Envoy's slow start with its default aggression).

    Attributes:
        ramping: Whether any node must be spared now.

    Args:
        duration: Seconds from a node's arrival to its full share; if 0, do not call `joined`.
    """

    __slots__ = ("_duration", "_since", "ramping")

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._since: dict[str, float] = {}
        self.ramping = False

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, key: str) -> bool:
        return key in self._since

    def joined(self, key: str, now: float) -> None:
        """A node has come to a set that has others."""
        self._since[key] = now

    def left(self, key: str) -> None:
        """A node is gone."""
        self._since.pop(key, None)

    def review(self, reachable: int, now: float) -> None:
        """Find out which nodes are warm by now, and whether the others can spare the rest.

        If half of the nodes or more are new, as after a deployment, sparing them would
        only overload the old ones: then no node is spared.
        """
        if self._since:
            warm = now - self._duration
            self._since = {key: since for key, since in self._since.items() if since > warm}
        self.ramping = 0 < 2 * len(self._since) < reachable

    def share(self, key: str, now: float) -> float:
        """The share of its usual calls that a node may have: 0.1 to 1."""
        since = self._since.get(key)
        if since is None:
            return 1.0
        age = max(0.0, now - since) / self._duration
        if age >= 1:
            del self._since[key]
            self.ramping = self.ramping and bool(self._since)
            return 1.0
        return LEAST + (1 - LEAST) * age
