"""Balancers in plain Python: what a pick and its `done` cost, and how even the load is."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.figures import Figure, Row, at_most
from benchmarks.rounds import Settings

__all__ = ["evenness", "picks"]

NODES = (10, 1_000, 10_000)
COSTS = {"round_robin": at_most(1500), "random": at_most(1500), "p2c": at_most(3000)}
# How much dearer 10,000 nodes may be than 10 and still be called the same: ten
# thousand nodes do not fit the inner caches, so it is never quite 1. A pick of p2c reads some
# ten objects that are each node's own, one of round_robin a single one.
FLAT = at_most(1.25)

# Load max ÷ mean at 1,000 calls for each node; chance alone has no bar.
EVENNESS = {"round_robin": at_most(1.01), "random": None, "p2c": at_most(1.10)}
CALLS_A_NODE = 1_000


def _balancer(name: str, count: int) -> Any:
    from pymicro import Config, Node, NodeSet
    from pymicro.settings import plugins

    balancer = plugins.load(plugins.BALANCERS, name)(Config())
    nodes = NodeSet.of(Node(f"node-{index}", f"10.0.{index >> 8}.{index & 255}:1") for index in range(count))
    balancer.update(nodes, nodes)
    return balancer


def _nanoseconds(balancer: Any, picks: int) -> float:
    from pymicro.balancing.balancer import OUTCOMES, CallInfo

    pick, call, fine = balancer.pick, CallInfo("/greeter.v1.Greeter/SayHello"), OUTCOMES[0]
    gc.collect()
    begun = time.perf_counter_ns()
    for _ in range(picks):
        pick(call).done(fine)
    return (time.perf_counter_ns() - begun) / picks


async def picks(settings: Settings) -> AsyncIterator[list[Row]]:
    # The loop around it (some 20 ns) is counted: it is in favour of nobody.
    for name, cost in COSTS.items():
        balancers = {count: _balancer(name, count) for count in NODES}
        found: dict[int, list[float]] = {count: [] for count in NODES}
        each = max(1_000, int(settings.seconds / 4 / 500e-9))
        for _ in range(settings.rounds):
            for count in NODES:
                found[count].append(_nanoseconds(balancers[count], each))
        rows = [
            Row("pick", f"{name}, {count:,} nodes, pick + done", Figure.of(found[count]), "ns", cost)
            for count in NODES
        ]
        flat = [most / least for least, most in zip(found[NODES[0]], found[NODES[-1]], strict=True)]
        what = f"{name}, {NODES[-1]:,} ÷ {NODES[0]} nodes"
        yield [*rows, Row("pick", what, Figure.of(flat), "", FLAT)]


def _unevenness(balancer: Any, nodes: int, in_flight: int, calls: int, rng: random.Random) -> float:
    """Load max ÷ mean; of the calls in flight a random one ends before the next one begins."""
    from pymicro.balancing.balancer import OUTCOMES, CallInfo

    call, fine = CallInfo("/greeter.v1.Greeter/SayHello"), OUTCOMES[0]
    counts: Counter[str] = Counter()
    flying: list[Any] = []
    for _ in range(calls):
        if len(flying) == in_flight:
            place = rng.randrange(in_flight)
            flying[place], flying[-1] = flying[-1], flying[place]
            flying.pop().done(fine)
        pick = balancer.pick(call)
        counts[pick.node.key] += 1
        flying.append(pick)
    return max(counts.values()) * nodes / calls


async def evenness(settings: Settings) -> AsyncIterator[list[Row]]:
    # It hardly scatters, and a round of a hundred nodes takes a third of a second.
    rounds, calls = min(settings.rounds, 10), CALLS_A_NODE
    rng = random.Random(1)
    for name, bar in EVENNESS.items():
        rows = []
        for nodes in (10, 100):
            for in_flight in (1, 64):
                found = [
                    _unevenness(_balancer(name, nodes), nodes, in_flight, nodes * calls, rng)
                    for _ in range(rounds)
                ]
                what = f"{name}, {nodes} nodes, {in_flight} in flight, load max ÷ mean"
                rows.append(Row("evenness", what, Figure.of(found), "", bar))
        yield rows
