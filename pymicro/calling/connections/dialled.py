"""Which of a service's nodes are dialled at all."""

from __future__ import annotations

from pymicro.nodes.node import EMPTY, NodeSet, differing
from pymicro.nodes.wellknown import other_protocol

__all__ = ["Dialled"]


class Dialled:
    """Takes the nodes that speak another protocol out of each set of one service.

    It looks only at the changes since the last set: one new node among ten thousand
    costs no more than one among ten.

    Attributes:
        others: The nodes taken out of the last set: the protocol of each, by its key.
    """

    def __init__(self) -> None:
        self.others: dict[str, str] = {}
        self._last = EMPTY

    def of(self, nodes: NodeSet) -> NodeSet:
        """The nodes to dial; the same set if that is all of them."""
        gone, present = differing(self._last, nodes)
        self._last = nodes
        if self.others:
            for node in gone:
                self.others.pop(node.key, None)
        for node in present:
            protocol = other_protocol(node.metadata)
            if protocol:
                self.others[node.key] = protocol
        if not self.others:
            return nodes
        return NodeSet(tuple(node for node in nodes.nodes if node.key not in self.others))
