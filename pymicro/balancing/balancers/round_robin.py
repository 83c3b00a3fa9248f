"""Balancer `round_robin`: each node in turn, from a random start."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pymicro.balancing.balancer import CallInfo, PlainPick, nothing_left
from pymicro.nodes.node import NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["RoundRobin"]


class RoundRobin:
    """Each usable node in turn.

    Args:
        config: Every balancer gets it; this one reads nothing from it.
        rng: Source of the random start, for tests.
    """

    def __init__(self, config: Config | None = None, *, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._ring: list[PlainPick] = []
        self._next = 0

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        """Go on with the survivors where the ring stands; newcomers come after them.

        The ring is a queue: even if the set changes between any two calls, every
        survivor has its turn before any of them has a second one.
        """
        upcoming = self._ring[self._next :] + self._ring[: self._next]
        fresh = {node.key: node for node in usable}
        ring = []
        for pick in upcoming:
            node = fresh.pop(pick.node.key, None)
            if node is not None:
                ring.append(pick if node is pick.node else PlainPick(node))
        newcomers = [PlainPick(node) for node in fresh.values()]
        if newcomers:
            # Sets are sorted, and a thousand clients must not all begin with the first node.
            start = self._rng.randrange(len(newcomers))
            ring += newcomers[start:] + newcomers[:start]
        self._ring = ring
        self._next = 0

    def pick(self, call: CallInfo) -> PlainPick:
        """The next node in turn that the call was not tried on.

        Raises:
            NoNode: No node is usable, or the call was tried on all of them.
        """
        ring = self._ring
        place = self._next
        # Two loops' worth of range() cost more than the pick, and the first node almost
        # always serves.
        if place < len(ring):
            pick = ring[place]
        elif ring:
            place = 0
            pick = ring[0]
        else:
            raise nothing_left(0, call)
        self._next = place + 1
        tried = call.tried
        if not tried or pick.node.key not in tried:
            return pick
        return self._pick_untried(place + 1, call)

    def _pick_untried(self, start: int, call: CallInfo) -> PlainPick:
        ring = self._ring
        for step in range(len(ring) - 1):
            place = (start + step) % len(ring)
            if ring[place].node.key not in call.tried:
                self._next = place + 1
                return ring[place]
        raise nothing_left(len(ring), call)
