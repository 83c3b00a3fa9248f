"""What the tests of policies share: nodes, a clock that is moved by hand, a balancer that keeps accounts."""

from __future__ import annotations

from collections import Counter

from pymicro.balancing.balancer import CallInfo, Outcome, nothing_left
from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.wellknown import ZONE

CALL = CallInfo("/a.B/C")


class Clock:
    """Seconds; they pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def node(number: int, zone: str = "") -> Node:
    return Node(
        id=f"n{number:05}",
        address=f"10.0.{number // 250}.{number % 250}:8080",
        service="greeter",
        metadata={ZONE: zone} if zone else {},
    )


def nodes(*numbers: int, zone: str = "") -> NodeSet:
    return NodeSet.of(node(number, zone) for number in numbers)


def union(*sets: NodeSet) -> NodeSet:
    return NodeSet.of(one for nodes in sets for one in nodes)


def without(nodes: NodeSet, *gone: Node) -> NodeSet:
    return NodeSet(tuple(one for one in nodes if one not in gone))


class AccountedPick:
    """Must be done exactly once."""

    def __init__(self, node: Node, balancer: Accounting) -> None:
        self.node = node
        self._balancer = balancer
        self._open = True

    def done(self, outcome: Outcome) -> None:
        assert self._open, f"{self.node.key} was done twice"
        self._open = False
        self._balancer.in_flight[self.node.key] -= 1
        self._balancer.outcomes.append(outcome)


class Accounting:
    """A balancer: each usable node in turn, with an account of who is being called.

    Attributes:
        nodes: As updated.
        usable: As updated.
        in_flight: Picks by node key that were not done.
        outcomes: What it was told, in this order.
    """

    def __init__(self) -> None:
        self.nodes = self.usable = NodeSet()
        self.in_flight: Counter[str] = Counter()
        self.outcomes: list[Outcome] = []
        self._turn = 0

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        assert set(usable) <= set(nodes)
        assert list(usable) == sorted(usable, key=lambda node: node.key)
        self.nodes, self.usable = nodes, usable

    def pick(self, call: CallInfo) -> AccountedPick:
        for _ in range(len(self.usable)):
            self._turn += 1
            node = self.usable.nodes[self._turn % len(self.usable)]
            if node.key not in call.tried:
                self.in_flight[node.key] += 1
                return AccountedPick(node, self)
        raise nothing_left(len(self.usable), call)
