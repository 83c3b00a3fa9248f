"""The nodes of thousands of objects as one node set; an update costs only what has changed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping
from itertools import compress
from operator import is_not
from types import MappingProxyType

from pymicro.nodes.node import EMPTY, Node, NodeSet

__all__ = ["NodeTable"]

# If more than this part of the nodes changes, sorting anew is cheaper.
_FEW = 1 / 8


class NodeTable:
    """Turns objects in several parts, each with its nodes, into the set of all nodes.

    Sorting ten thousand nodes takes 15 ms, and a rollout needs it twenty times a second.
    So the table keeps unchanged nodes in their order. They stay the same objects, too:
    that makes it cheap for others to compare sets.
    """

    def __init__(self) -> None:
        self._parts: dict[Hashable, dict[str, tuple[Node, ...]]] = {}
        self._keys: list[str] = []
        self._nodes: list[Node] = []
        self._set = EMPTY
        # Whether every key is there once; if a key is there twice, we cannot tell which
        # node to remove when one object goes.
        self._plain = True

    def replace(self, part: Hashable, objects: Mapping[str, tuple[Node, ...]]) -> NodeSet:
        """Replace the objects of one part, by uid; returns the whole set, the same one if nothing changed."""
        old = self._parts.get(part, {})
        # `objects` may be a view; this is the quickest copy of it.
        new = MappingProxyType(objects).copy()
        gone: list[Node] = []
        come: list[Node] = []
        same: list[Node] = []
        # No line of Python runs for each object, because most have not changed.
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
            # These were read anew and are equal: from now on the set holds the new objects.
            for node in same:
                self._nodes[bisect_left(self._keys, node.key)] = node
        if not gone and not come:
            return self._set
        if not (self._plain and len(gone) + len(come) <= len(self._nodes) * _FEW and self._alter(gone, come)):
            self._sort()
        return self._set

    def _alter(self, gone: list[Node], come: list[Node]) -> bool:
        """Remove and add nodes; returns False if that cannot be done and all must be sorted."""
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
