"""`p2c` over some nodes, by a clock that the tests move."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, CallInfo, Outcome, Pick
from pymicro.balancing.balancers.p2c import P2C
from pymicro.nodes.node import Node, NodeSet

OK = OUTCOMES[0]


def nodes(*numbers: int) -> NodeSet:
    return NodeSet.of(Node(id=f"n{number:05}", address=f"10.0.0.1:{number + 1}") for number in numbers)


class Bench:
    """A balancer over some nodes, and a clock."""

    def __init__(self, *numbers: int, seed: int = 1) -> None:
        self.time = 1000.0
        self.balancer = P2C(rng=random.Random(seed), clock=lambda: self.time)
        self.nodes = nodes(*numbers)
        self.streams: list[Any] = []
        self.use(*numbers)

    def use(self, *numbers: int) -> None:
        """Only these are usable from now on; all are still listed."""
        self.balancer.update(self.nodes, nodes(*numbers))

    def pick(self, tried: frozenset[str] = frozenset()) -> Pick:
        return self.balancer.pick(CallInfo("/a.B/C", tried))

    def open(self, streams: int, every: float = 0.0, first: float | None = None) -> Counter[int]:
        """Begin so many streams, one `every` so many seconds; which nodes they went to.

        Args:
            first: Seconds until each has its first response; None if that never comes.
        """
        found: Counter[int] = Counter()
        waiting: list[tuple[float, Any]] = []
        for _ in range(streams):
            pick = self.balancer.pick(CallInfo("/a.B/S", streams=True))
            found[int(pick.node.id[1:])] += 1
            self.streams.append(pick)
            if first is not None:
                waiting.append((self.time + first, pick))
            self.time += every
            while waiting and waiting[0][0] <= self.time:
                waiting.pop(0)[1].answered()
        return found

    def begin(self, number: int) -> Pick:
        """A call on this very node."""
        key = self.key(number)
        return self.pick(frozenset(node.key for node in self.nodes if node.key != key))

    def stream_of(self, number: int) -> CallInfo:
        """A stream that this very node is left for."""
        key = self.key(number)
        tried = frozenset(node.key for node in self.nodes if node.key != key)
        return CallInfo("/a.B/S", tried, streams=True)

    def key(self, number: int) -> str:
        return nodes(number).nodes[0].key

    def call(self, number: int, seconds: float = 0.01, outcome: Outcome = OK) -> None:
        """A call on this very node that takes so long."""
        pick = self.begin(number)
        self.time += seconds
        pick.done(outcome)

    def settle(self) -> None:
        """Every node is known to take 10 ms."""
        for _ in range(100):
            for node in self.nodes:
                self.call(int(node.id[1:]))

    def counts(self, calls: int, seconds: float = 0.0005) -> Counter[int]:
        """Which nodes calls that come one after the other go to."""
        found: Counter[int] = Counter()
        for _ in range(calls):
            pick = self.pick()
            found[int(pick.node.id[1:])] += 1
            self.time += seconds
            pick.done(CANCELLED)
        return found
