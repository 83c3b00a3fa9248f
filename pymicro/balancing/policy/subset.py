"""Which nodes of a large service one client uses."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter, is_not

from pymicro.balancing.policy.rendezvous import ranking
from pymicro.nodes.node import EMPTY, Node, NodeSet, differing

__all__ = ["Subset"]

# This many newcomers or fewer are put in their places; more are sorted in.
FEW = 64

_key = attrgetter("key")


class Subset:
    """A stable choice of `size` nodes, different for each seed, by rendezvous hash.

    If a node leaves, one other replaces it; a node that arrives replaces one or none.
    A node is its key, id and address: here too, a node that comes back at another
    address or as a new process is another node.

    Each node's rank is computed once. A set that differs little from the previous one
    costs little.

    Args:
        size: Nodes to choose; 0 for all.
        seed: Any text that distinguishes this client from others.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size = size
        self._rank = ranking(seed)
        self._nodes = EMPTY
        # In the order of their ranks, the chosen ones first.
        self._order: list[bytes] = []
        self._ranks: dict[str, bytes] = {}
        self._by_rank: dict[bytes, Node] = {}
        self._chosen = EMPTY

    def choose(self, nodes: NodeSet) -> NodeSet:
        """The chosen nodes: the same objects as in `nodes`; `nodes` itself if it has at most `size`."""
        if not self._size or len(nodes) <= self._size:
            self._nodes = self._chosen = EMPTY
            self._order, self._ranks, self._by_rank = [], {}, {}
            return nodes
        gone, present = differing(self._nodes, nodes)
        self._nodes = nodes
        kept = {node.key for node in present}
        for node in gone:
            if node.key not in kept:
                rank = self._ranks.pop(node.key)
                del self._by_rank[rank]
                del self._order[bisect_left(self._order, rank)]
        arrived = []
        for node in present:
            rank = self._ranks.get(node.key, b"")
            if not rank:
                rank = self._ranks[node.key] = self._rank(node.key)
                arrived.append(rank)
            self._by_rank[rank] = node
        if len(arrived) <= FEW:
            for rank in arrived:
                insort(self._order, rank)
        else:
            self._order += arrived
            self._order.sort()
        chosen = tuple(sorted(map(self._by_rank.__getitem__, self._order[: self._size]), key=_key))
        if len(chosen) != len(self._chosen) or any(map(is_not, chosen, self._chosen)):
            self._chosen = NodeSet(chosen)
        return self._chosen
