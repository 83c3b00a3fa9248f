"""No pod gets much more than its share of the calls, however many nodes it says it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import other_protocol

__all__ = ["limited", "most_of_one"]

Objects = Mapping[str, tuple[Node, ...]]


def most_of_one(parts: Iterable[Objects]) -> int:
    """The most nodes that one object may have: half as many again as half of the objects have.

    A pod has a node for each of its processes, and a call goes to a node: a pod that claims eight
    where the others have one would get eight times the calls. While a rollout changes the number of
    processes, the pods of the majority decide.

    Args:
        parts: The nodes of all objects, by uid.
    """
    parts = list(parts)
    # No line of Python runs for each object where each has one node.
    if max((max(map(len, objects.values()), default=0) for objects in parts), default=0) <= 1:
        return 1
    counts = sorted(_called(nodes) for objects in parts for nodes in objects.values())
    usual = counts[(len(counts) - 1) // 2]
    return max(usual + usual // 2, 1)


def limited(objects: Objects, most: int) -> Objects:
    """The objects with at most so many nodes each; those that have fewer are the same as before."""
    if max(map(len, objects.values()), default=0) <= most:
        return objects
    return {uid: _limited(nodes, most) for uid, nodes in objects.items()}


def _limited(nodes: tuple[Node, ...], most: int) -> tuple[Node, ...]:
    if _called(nodes) <= most:
        return nodes
    called = [node for node in nodes if not other_protocol(node.metadata)]
    left_out = set(called[most:])
    return tuple(node for node in nodes if node not in left_out)


def _called(nodes: tuple[Node, ...]) -> int:
    """How many are called; those that speak another protocol are only shown."""
    return sum(not other_protocol(node.metadata) for node in nodes)
