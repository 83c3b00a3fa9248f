"""Balancer `random`: any node, with equal chances."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pymicro.balancing.balancer import CallInfo, PlainPick, nothing_left
from pymicro.nodes.node import NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["Random"]

# A retry among many nodes nearly always draws an untried one first; after this many
# misses, look for the few untried ones.
_DRAWS = 8


class Random:
    """Any usable node, with equal chances.

    Args:
        config: Every balancer gets it; this one reads nothing from it.
        rng: Source of randomness, for tests.
    """

    def __init__(self, config: Config | None = None, *, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._random = self._rng.random
        self._picks: list[PlainPick] = []

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        """Choose among `usable` from now on."""
        self._picks = [PlainPick(node) for node in usable]

    def pick(self, call: CallInfo) -> PlainPick:
        """A random node that the call was not tried on.

        Raises:
            NoNode: No node is usable, or the call was tried on all of them.
        """
        picks = self._picks
        if not picks:
            raise nothing_left(0, call)
        # randrange() is five times slower, and more even by less than 2**-39.
        pick = picks[int(self._random() * len(picks))]
        tried = call.tried
        if not tried or pick.node.key not in tried:
            return pick
        for _ in range(_DRAWS):
            pick = picks[int(self._random() * len(picks))]
            if pick.node.key not in tried:
                return pick
        untried = [pick for pick in picks if pick.node.key not in tried]
        if not untried:
            raise nothing_left(len(picks), call)
        return self._rng.choice(untried)
