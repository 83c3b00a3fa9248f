"""The balancers compared: pymicro's, and models of others that exist only here."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from pymicro.balancing.balancer import Balancer, CallInfo, Outcome, nothing_left
from pymicro.balancing.balancers.p2c import P2C
from pymicro.balancing.balancers.random import Random
from pymicro.balancing.balancers.round_robin import RoundRobin
from pymicro.nodes.node import Node, NodeSet

__all__ = ["BALANCERS", "MODELS", "LeastLoaded", "PeakEwma"]

_TAU = 10.0  # seconds; Finagle's default


class _Counted:
    """A node and its calls in flight; with a latency, as Finagle's peak EWMA has it."""

    __slots__ = ("calls", "latency", "node", "seen")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls = 0
        self.latency = 0.0
        self.seen = 0.0

    def cost(self, now: float) -> float:
        """Finagle's `PeakEwma.Metric.get`: latency * (pending + 1), a call on an unknown node is dear."""
        self.latency *= math.exp((self.seen - now) / _TAU)
        self.seen = now
        if not self.latency and self.calls:
            return 1e9 + self.calls
        return self.latency * (self.calls + 1)

    def observe(self, took: float, now: float) -> None:
        """Finagle's `observe`: at once up to a higher latency, down by time only."""
        weight = math.exp((self.seen - now) / _TAU)
        self.latency = took if took > self.latency else self.latency * weight + took * (1.0 - weight)
        self.seen = now


class _Pick:
    __slots__ = ("_begun", "_clock", "_counted", "node")

    def __init__(self, counted: _Counted, clock: Callable[[], float]) -> None:
        self.node = counted.node
        self._counted = counted
        self._clock = clock
        self._begun = clock()
        counted.calls += 1

    def done(self, outcome: Outcome) -> None:
        now = self._clock()
        self._counted.calls -= 1
        self._counted.observe(now - self._begun, now)


class _Model:
    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._clock = clock
        self._usable: dict[str, _Counted] = {}
        self._list: list[_Counted] = []

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        old = self._usable
        self._usable = {node.key: old.get(node.key) or _Counted(node) for node in usable}
        self._list = list(self._usable.values())

    def pick(self, call: CallInfo) -> _Pick:
        left = self._list
        if call.tried:
            left = [counted for counted in left if counted.node.key not in call.tried]
        if not left:
            raise nothing_left(len(self._list), call)
        return _Pick(self._choose(left), self._clock)

    def _choose(self, left: list[_Counted]) -> _Counted:
        raise NotImplementedError


class LeastLoaded(_Model):
    """Of all nodes the one with the fewest calls in flight; by chance among equals (Finagle's `heap`)."""

    def _choose(self, left: list[_Counted]) -> _Counted:
        fewest = min([counted.calls for counted in left])
        return self._rng.choice([counted for counted in left if counted.calls == fewest])


class PeakEwma(_Model):
    """Of two random nodes the one with the lower cost, as Finagle's `p2cPeakEwma` reckons it."""

    def _choose(self, left: list[_Counted]) -> _Counted:
        if len(left) == 1:
            return left[0]
        one, other = self._rng.sample(left, 2)
        now = self._clock()
        return one if one.cost(now) <= other.cost(now) else other


Make = Callable[[random.Random, Callable[[], float]], Balancer]

BALANCERS: dict[str, Make] = {
    "round_robin": lambda rng, clock: RoundRobin(rng=rng),
    "random": lambda rng, clock: Random(rng=rng),
    "p2c": lambda rng, clock: P2C(rng=rng, clock=clock),
}
MODELS: dict[str, Make] = {"least_loaded": LeastLoaded, "peak_ewma": PeakEwma}
