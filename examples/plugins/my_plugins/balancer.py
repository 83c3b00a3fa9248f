# my_plugins/balancer.py
"""Balancer `priority`: nodes with the lowest number under `priority`; the next ones if they fail."""

from __future__ import annotations

import random

from pymicro.balancing.balancer import CallInfo, Config, Node, NodeSet, PlainPick, nothing_left


def _priority(node: Node) -> int:
    # Metadata is written by others: what cannot be read says nothing, and is no error.
    text = node.metadata.get("priority", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


class Priority:
    def __init__(self, config: Config) -> None:
        self._tiers: list[list[PlainPick]] = []
        self._usable = 0

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        tiers: dict[int, list[PlainPick]] = {}
        for node in usable:
            tiers.setdefault(_priority(node), []).append(PlainPick(node))
        self._tiers = [tiers[number] for number in sorted(tiers)]
        self._usable = len(usable)

    def pick(self, call: CallInfo) -> PlainPick:
        for tier in self._tiers:
            # Nodes that an earlier attempt of this call went to are not picked again.
            left = [pick for pick in tier if pick.node.key not in call.tried] if call.tried else tier
            if left:
                return random.choice(left)
        raise nothing_left(self._usable, call)
