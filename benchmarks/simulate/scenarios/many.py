"""A thousand clients and a thousand nodes, some of them slow, some failing, with the default settings."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.simulate.clients import Client, Record, arrivals, nodes_of
from benchmarks.simulate.lab import ALL, percentile, seeded
from benchmarks.simulate.plots import latency_curves, look
from benchmarks.simulate.results import Result, Table, milliseconds, percent
from benchmarks.simulate.servers import Mode, Server, lognormal
from benchmarks.simulate.world import World
from pymicro.balancing.policy.subset import Subset
from pymicro.nodes.node import NodeSet

__all__ = ["run"]

COMPARED = ("round_robin", "random", "least_loaded", "peak_ewma", "p2c")
SUBSET, SLOTS, MEDIAN = 100, 4, 0.1
RATE = 16.0  # calls a second and node: half busy


def _once(balancer: str, nodes: NodeSet, subsets: list[NodeSet], seconds: float) -> tuple[Record, int, int]:
    world = World()
    bad = len(nodes) // 100
    servers = [
        Server(world, node, lognormal(MEDIAN, 0.5, seeded("work", place)), slots=SLOTS)
        for place, node in enumerate(nodes)
    ]
    order = seeded("which").sample(range(len(nodes)), 2 * bad)
    slow, failing = order[:bad], order[bad:]
    for place in slow:
        servers[place].slowness = lambda now: 10.0
    for place in failing:
        servers[place].mode = Mode.FAILS
    record, by_key = Record(servers), {server.node.key: server for server in servers}
    for number, mine in enumerate(subsets):
        rng = seeded("client", number)
        client = Client(
            world, by_key, record, ALL[balancer](random.Random(rng.random()), world.clock), rng, mine
        )
        arrivals(world, client.call, RATE * len(nodes) / len(subsets), rng, seconds)
    world.run(seconds + 10)
    since = seconds / 2
    loads = record.loads(since, seconds)
    return record, sum(loads[place] for place in slow), sum(loads[place] for place in failing)


def run(quick: bool) -> Result:
    count, seconds = (100, 1.0) if quick else (1000, 10.0)
    nodes = NodeSet.of(nodes_of(count))
    subsets = [Subset(min(SUBSET, count // 2), f"client-{number}").choose(nodes) for number in range(count)]
    since = seconds / 2
    rows, curves, spread = [], {}, {}
    for balancer in COMPARED:
        record, slow, failing = _once(balancer, nodes, subsets, seconds)
        loads = record.loads(since, seconds)
        latencies = record.latencies(since, seconds)
        curves[balancer] = latencies
        mean = sum(loads) / len(loads)
        spread[balancer] = sorted(load / mean for load in loads)
        rows.append(
            [
                f"`{balancer}`",
                *(milliseconds(percentile(latencies, rank)) for rank in (50, 90, 99, 99.9)),
                percent(record.failed(since, seconds)),
                percent(slow / sum(loads)),
                percent(failing / sum(loads)),
                f"{max(loads) / mean:.2f}",
            ]
        )
    table = Table(
        f"{count:,} clients × {count:,} nodes, subsets of {min(SUBSET, count // 2)}, {RATE:g} calls a second "
        "each, nodes half busy with 100 ms (median); 1 % of the nodes take ten times as long (more than they "
        "can bear), 1 % fail at once; second half of the run, a call that timed out counts with its 5 s",
        [
            "balancer",
            "p50 [ms]",
            "p90 [ms]",
            "p99 [ms]",
            "p99.9 [ms]",
            "failed",
            "to slow nodes",
            "to failing nodes",
            "load max ÷ mean",
        ],
        rows,
    )

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        latency_curves(left, curves)
        left.set_title("Latency of all calls but those that failed at once")
        left.legend()
        for balancer, values in spread.items():
            places = [100 * place / len(values) for place in range(len(values))]
            right.plot(places, values, label=balancer, **look(balancer))
        right.set_xlabel("nodes, the idlest first [%]")
        right.set_ylabel("calls of a node ÷ mean")
        right.set_ylim(bottom=0)
        right.set_title("Load of the nodes")
        right.legend()

    return Result([table], "Latency by percentile, and load of a thousand nodes", draw)
