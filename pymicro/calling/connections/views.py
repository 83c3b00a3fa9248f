"""What a client knows of a service's nodes, for people: the state of each, and why one is not called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from pymicro.base.durations import format_duration
from pymicro.calling.connections.node_channel import NodeChannel
from pymicro.calling.connections.target import Target
from pymicro.nodes.node import EMPTY, Node
from pymicro.nodes.wellknown import ZONE

__all__ = ["NodeState", "NodeView", "counts_of", "leaving", "nodes_of"]

NodeState = Literal[
    "ready",
    "warming",
    "ejected",
    "probing",
    "other_zone",
    "connecting",
    "unconnected",
    "failed",
    "unused",
]


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as one client sees it.

    Attributes:
        node: The node.
        state: `ready`: calls go there. `warming`: fewer do, since it is new. `ejected`: its calls
            failed. `probing`: one call finds out whether it is well again. `other_zone`: the own zone is
            enough. `connecting`. `unconnected`: it is connected when it is first picked. `failed`: it
            cannot be reached. `unused`: this client does not want it.
        called: Whether calls may go there now. In a panic ejected nodes are called too.
        why_not: Why no calls go there; empty if they do.
        calls: Calls in flight on its connection, which several channels may share.
        figures: What the balancer keeps of it; `latency` is in seconds.
    """

    node: Node
    state: NodeState
    called: bool
    why_not: str
    calls: int
    figures: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Without the node's metadata, which is nobody's business: it may hold anything."""
        latency = self.figures.get("latency")
        return {
            "id": self.node.id,
            "address": self.node.address,
            "version": self.node.version,
            "zone": self.node.metadata.get(ZONE) or None,
            "state": self.state,
            "called": self.called,
            "why_not": self.why_not or None,
            "in_flight": self.calls,
            "latency_seconds": latency,
            "failing": self.figures.get("failing"),
        }


def nodes_of(target: Target) -> Iterator[NodeView]:
    """Every node of the last set, in its order; it may be left for a while between two of them."""
    used = {node.key for node in target.chooser.used}
    for node in target.given or EMPTY:
        channel = target.channels.get(node.key)
        if channel is None:
            yield NodeView(node, "unused", False, _unwanted(target, node), 0, {})
        else:
            yield _node(target, channel, node.key in used)


def _unwanted(target: Target, node: Node) -> str:
    if protocol := target.not_dialled(node.key):
        return f"it speaks {protocol}"
    if not target.filter.takes(node):
        return f"the channel wants another: {target.filter.hidden()}"
    return "it is not in this client's subset of the nodes"


def _node(target: Target, channel: NodeChannel, used: bool) -> NodeView:
    known = target.chooser.about(channel.node.key)
    ago = format_duration(round(max(0.0, target.loop.time() - channel.since), 1))
    state: NodeState
    why = ""
    if not channel.pickable:
        if channel.failed:
            state = "failed"
            why = channel.broken or f"it cannot be reached, tried last {ago} ago"
        elif channel.lazy and not target.pool.is_due(channel):
            state, why = "unconnected", "it is connected when it is first picked"
        else:
            state, why = "connecting", "its connection is being made"
    elif known.probing:
        state, why = "probing", f"a call finds out whether it is well again: {known.ejected}"
    elif known.ejected:
        left = format_duration(round(known.probe_in, 1))
        state, why = "ejected", f"ejected until a probe in {left}: {known.ejected}"
    elif not used:
        state, why = "other_zone", "the nodes of the own zone are enough"
    else:
        state = "warming" if known.warming else "ready"
        if channel.state is grpc.ChannelConnectivity.IDLE:
            state = "connecting"
    return NodeView(channel.node, state, used, "" if used else why, channel.calls, dict(known.figures))


def counts_of(targets: Iterable[Target]) -> dict[str, tuple[Counter[str], bool]]:
    """By service how many nodes are in which state, and whether any channel's choice is in a panic.

    Channels that want other nodes of the same service add up.
    """
    found: dict[str, tuple[Counter[str], bool]] = {}
    for target in targets:
        counts, panic = found.get(target.service, (Counter(), False))
        counts["known"] += len(target.given or EMPTY)
        counts["ready"] += sum(channel.pickable for channel in target.channels.values())
        for state, count in target.chooser.counts().items():
            counts[state] += count
        found[target.service] = counts, panic or target.chooser.panicking
    return found


def leaving(channels: Iterable[NodeChannel]) -> list[dict[str, Any]]:
    """Nodes that have left their set while calls on them go on."""
    return [
        {"id": channel.node.id, "address": channel.node.address, "in_flight": channel.calls}
        for channel in channels
    ]
