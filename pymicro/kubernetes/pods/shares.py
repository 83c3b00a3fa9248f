"""No pod gets much more than its share of the calls, however many nodes it says it has."""

from __future__ import annotations

from collections import Counter

from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.wellknown import other_protocol

__all__ = ["fair_shares"]


def fair_shares(nodes: NodeSet) -> NodeSet:
    """The set with at most half as many nodes again of each pod as half of the pods have.

    A pod has a node for each of its processes, and a call goes to a node: a pod that claims eight
    where the others have one would get eight times the calls. While a rollout changes the number of
    processes, the pods of the majority decide.

    Args:
        nodes: All nodes; those of one pod are at one host.
    """
    hosts = [_host(node) for node in nodes]
    if len(set(hosts)) == len(hosts):
        return nodes
    counts = Counter(_host(node) for node in nodes if not other_protocol(node.metadata))
    if not counts:
        return nodes
    usual = sorted(counts.values())[(len(counts) - 1) // 2]
    most = usual + usual // 2
    if max(counts.values()) <= most:
        return nodes
    taken: Counter[str] = Counter()

    def stays(node: Node) -> bool:
        if other_protocol(node.metadata):
            return True  # it is shown, and nobody calls it
        taken[_host(node)] += 1
        return taken[_host(node)] <= most

    return NodeSet(tuple(node for node in nodes if stays(node)))


def _host(node: Node) -> str:
    return node.address.rpartition(":")[0]
