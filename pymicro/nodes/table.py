"""Nodes of thousands of objects as one node set, at the price of what changed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping
from itertools import compress
from operator import is_not
from types import MappingProxyType

from pymicro.nodes.node import EMPTY, Node, NodeSet

__all__ = ["NodeTable"]

# Where more than this part of the nodes changes, sorting anew is cheaper.
_FEW = 1 / 8


class NodeTable:
    """Objects in several parts, each object with its nodes → the set of them all.

    Sorting ten thousand nodes takes 15 ms, twenty times a second while a rollout
    goes on: so what stays is kept, in its order, and the same nodes stay the same
    objects, which makes comparing sets cheap for whoever is told.
    """

    def __init__(self) -> None:
        self._parts: dict[Hashable, dict[str, tuple[Node, ...]]] = {}
        self._keys: list[str] = []
        self._nodes: list[Node] = []
        self._set = EMPTY
        # Whether every key is there once; with a key twice there is no telling
        # which node to take out when one object goes.
        self._plain = True

    def replace(self, part: Hashable, objects: Mapping[str, tuple[Node, ...]]) -> NodeSet:
        """Put in the objects of one part, by uid; the whole set, the same one if nothing changed."""
        old = self._parts.get(part, {})
        # The quickest copy there is of what may be a view.
        new = MappingProxyType(objects).copy()
        gone: list[Node] = []
        come: list[Node] = []
        same: list[Node] = []
        # Without a line of Python for each object: most have not changed.
        other = list(compress(new, map(is_not, new.values(), map(old.get, new))))
        met = len(new) - len(other)
        for uid in other:
            before, nodes = old.get(uid), new[uid]
            if before is None:
                come += nodes
                continue
            met += 1
            if before == nodes:
                same += nodes
            else:
                gone += before
                come += nodes
        if met < len(old):
            for uid in old.keys() - new.keys():
                gone += old[uid]
        self._parts[part] = new
        if self._plain:
            # Read anew and found equal: from now on these are the nodes that are the same.
            for node in same:
                self._nodes[bisect_left(self._keys, node.key)] = node
        if not gone and not come:
            return self._set
        if not (self._plain and len(gone) + len(come) <= len(self._nodes) * _FEW and self._alter(gone, come)):
            self._sort()
        return self._set

    def _alter(self, gone: list[Node], come: list[Node]) -> bool:
        """Take out and put in; False if that cannot be done, and then all is to be sorted."""
        for node in gone:
            place = bisect_left(self._keys, node.key)
            del self._keys[place], self._nodes[place]
        for node in come:
            place = bisect_left(self._keys, node.key)
            if place < len(self._keys) and self._keys[place] == node.key:
                return False
            self._keys.insert(place, node.key)
            self._nodes.insert(place, node)
        self._set = NodeSet(tuple(self._nodes))
        return True

    def _sort(self) -> None:
        nodes = [node for part in self._parts.values() for found in part.values() for node in found]
        self._set = NodeSet.of(nodes)
        self._nodes = list(self._set.nodes)
        self._keys = [node.key for node in self._nodes]
        self._plain = len(self._nodes) == len(nodes)
