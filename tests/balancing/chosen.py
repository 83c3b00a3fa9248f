"""A chooser over an accounting balancer, and a service's nodes that answer as told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, CallInfo, Outcome, Pick
from pymicro.balancing.chooser import Chooser
from pymicro.nodes.node import Node, NodeSet
from tests.balancing.support import CALL, Accounting, Clock, without

OK = OUTCOMES[0]
UNAVAILABLE = OUTCOMES[14]


class Service:
    """A chooser as a client uses it: updated when it asks for that, calls made one by one.

    Attributes:
        changes: How often it asked for an update.
        calls: Calls by node key.
    """

    def __init__(self, nodes: NodeSet, *, seed: int = 1, **options: Any) -> None:
        self.clock = Clock()
        self.balancer = Accounting()
        self.nodes = self.reachable = nodes
        self.failed = 0
        self.changes = 0
        self.calls: Counter[str] = Counter()
        self.broken: dict[str, int] = {}
        self.chooser = Chooser(
            self.balancer, changed=self._changed, clock=self.clock, rng=random.Random(seed), **options
        )
        self.update()

    def _changed(self) -> None:
        self.changes += 1
        self.update()

    def update(self) -> None:
        self.chooser.update(self.nodes, self.reachable, self.failed)

    def set(self, nodes: NodeSet, reachable: NodeSet | None = None, failed: int = 0) -> None:
        self.nodes, self.reachable = nodes, nodes if reachable is None else reachable
        self.failed = failed
        self.update()

    def lose(self, *lost: Node) -> None:
        """These cannot be connected to."""
        self.set(self.nodes, without(self.nodes, *lost), len(lost))

    def call(self, outcome: Outcome | None = None, tried: frozenset[str] = frozenset()) -> str:
        """One call, which ends as given, else as its node does; that node's key."""
        pick = self.chooser.pick(CallInfo("/a.B/C", tried))
        key = pick.node.key
        self.calls[key] += 1
        self.chooser.done(pick, outcome or OUTCOMES[self.broken.get(key, 0)])
        return key

    def serve(self, seconds: float, rate: float = 100.0) -> Counter[str]:
        """Calls at this rate; how many each node had of them."""
        before = self.calls.copy()
        for _ in range(int(seconds * rate)):
            self.clock.now += 1 / rate
            self.call()
        return self.calls - before

    def pick_of(self, node: Node) -> Pick:
        """A pick of this node, however many others must be passed over."""
        tried = frozenset(other.key for other in self.nodes if other != node)
        return self.chooser.pick(CallInfo("/a.B/C", tried))

    def fail(self, node: Node, times: int = 5, outcome: Outcome = UNAVAILABLE) -> None:
        """Calls on this node fail."""
        picks = [self.pick_of(node) for _ in range(times)]
        for pick in picks:
            assert pick.node == node
            self.chooser.done(pick, outcome)

    def eject(self, node: Node) -> None:
        self.fail(node)
        assert node.key in self.chooser.ejected

    def pass_time(self, seconds: float = 1.21) -> None:
        """Time passes, by default as much as the first ejection may take."""
        self.clock.now += seconds

    def picked(self, count: int = 30) -> set[str]:
        """Who is picked for calls that end well."""
        return {self.call(OK) for _ in range(count)}

    @property
    def used(self) -> NodeSet:
        return self.balancer.usable

    def settled(self) -> bool:
        """Whether the balancer was told the end of each of its picks."""
        return not any(self.balancer.in_flight.values())


def next_pick(service: Service) -> Pick:
    return service.chooser.pick(CALL)


Ending = Callable[[Service, Pick], None]


def cancelled(service: Service, pick: Pick) -> None:
    service.chooser.done(pick, CANCELLED)


def late(service: Service, pick: Pick) -> None:
    service.chooser.done(pick, OUTCOMES[4], late=True)
