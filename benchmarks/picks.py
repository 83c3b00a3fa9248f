"""One balancer pick and its `done`, in plain Python, at growing numbers of nodes."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.figures import Figure, Row, at_most
from benchmarks.rounds import Settings

__all__ = ["picks"]

NODES = (10, 1_000, 10_000)
BALANCERS = ("round_robin", "random")
COST = at_most(1500)
# How much dearer 10,000 nodes may be than 10 and still be called the same: ten
# thousand nodes do not fit the inner caches, so it is never quite 1.
FLAT = at_most(1.25)


def _balancer(name: str, count: int) -> Any:
    from pymicro import Config, Node, NodeSet, plugins

    balancer = plugins.load(plugins.BALANCERS, name)(Config())
    nodes = NodeSet.of(Node(f"node-{index}", f"10.0.{index >> 8}.{index & 255}:1") for index in range(count))
    balancer.update(nodes, nodes)
    return balancer


def _nanoseconds(balancer: Any, picks: int) -> float:
    from pymicro.balancer.base import OUTCOMES, CallInfo

    pick, call, fine = balancer.pick, CallInfo("/greeter.v1.Greeter/SayHello"), OUTCOMES[0]
    gc.collect()
    begun = time.perf_counter_ns()
    for _ in range(picks):
        pick(call).done(fine)
    return (time.perf_counter_ns() - begun) / picks


async def picks(settings: Settings) -> AsyncIterator[list[Row]]:
    # The loop around it (some 20 ns) is counted: it is in favour of nobody.
    for name in BALANCERS:
        balancers = {count: _balancer(name, count) for count in NODES}
        found: dict[int, list[float]] = {count: [] for count in NODES}
        each = max(1_000, int(settings.seconds / 4 / 500e-9))
        for _ in range(settings.rounds):
            for count in NODES:
                found[count].append(_nanoseconds(balancers[count], each))
        rows = [
            Row("pick", f"{name}, {count:,} nodes, pick + done", Figure.of(found[count]), "ns", COST)
            for count in NODES
        ]
        flat = [most / least for least, most in zip(found[NODES[0]], found[NODES[-1]], strict=True)]
        what = f"{name}, {NODES[-1]:,} ÷ {NODES[0]} nodes"
        yield [*rows, Row("pick", what, Figure.of(flat), "", FLAT)]
