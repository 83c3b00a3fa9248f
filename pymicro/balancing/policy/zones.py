"""Keeps calls in the client's own zone while the zone can bear them."""

from __future__ import annotations

from math import ceil

from pymicro.balancing.policy.rendezvous import ranking
from pymicro.nodes.node import NodeSet
from pymicro.nodes.wellknown import ZONE

__all__ = ["in_zone"]

# Envoy's overprovisioning factor: the nodes of a zone are assumed to bear 1.4 times their
# usual load, so a zone is enough for its clients until fewer than 72 % can be reached.
OVERPROVISIONED = 1.4


def in_zone(nodes: NodeSet, reachable: NodeSet, zone: str, seed: str = "") -> NodeSet:
    """The nodes of `reachable` that a client in `zone` should use.

    The zone is enough by itself if it has at least half of an even share of all nodes
    (its clients would overrun a zone with one node of thirty) and 1.4 times its reachable
    nodes are at least all of its nodes. Otherwise nodes from elsewhere fill it up to just
    as many as would be enough, so that the overflow grows with what is missing. A node
    of unknown zone is elsewhere; all such nodes together count as one zone.

    All are used without a zone, if nobody is listed in it, if none of it is reachable, or if fewer
    than half of all nodes say where they are: one that says so among many that do not would get the
    calls of all clients there.

    Args:
        nodes: All nodes of the service, reachable or not.
        reachable: The nodes to choose from.
        zone: The client's own; may be empty.
        seed: A text that distinguishes this client from others: each fills up with nodes
            of its own choice, and always with the same ones.
    """
    if not zone:
        return reachable
    placed = [node.metadata.get(ZONE, "") for node in nodes]
    zones = set(placed)
    if len(zones) == 1 or 2 * placed.count("") > len(placed):
        return reachable
    own = [node for node in reachable if node.metadata.get(ZONE) == zone]
    if not own:
        return reachable
    listed = sum(node.metadata.get(ZONE) == zone for node in nodes)
    least = len(nodes) / len(zones) / 2
    missing = ceil(listed / OVERPROVISIONED if listed >= least else least) - len(own)
    if missing <= 0:
        return NodeSet(tuple(own))
    others = (node.key for node in reachable if node.metadata.get(ZONE) != zone)
    used = {node.key for node in own}.union(sorted(others, key=ranking(seed))[:missing])
    return NodeSet(tuple(node for node in reachable if node.key in used))
