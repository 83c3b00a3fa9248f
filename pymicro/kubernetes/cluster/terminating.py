"""Nodes that terminate and still serve: a last resort, as they are to kube-proxy (KEP-1669)."""

from __future__ import annotations

from dataclasses import replace

from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.wellknown import other_protocol

__all__ = ["last_resort", "terminating"]

# The word of EndpointSlices for it, as a key of node metadata.
_TERMINATING = "terminating"


def terminating(node: Node) -> Node:
    """The node, marked as one that terminates."""
    return replace(node, metadata={**node.metadata, _TERMINATING: "true"})


def last_resort(nodes: NodeSet) -> NodeSet:
    """The set without those that terminate, unless nothing else in it can be called."""
    leaving = {node.key for node in nodes if _TERMINATING in node.metadata}
    if not leaving:
        return nodes
    staying = tuple(node for node in nodes if node.key not in leaving)
    if all(other_protocol(node.metadata) for node in staying):
        return nodes
    return NodeSet(staying)
