"""Each of many clients uses a few of many nodes: how even is what a node gets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.simulate.clients import Client, Record, arrivals, nodes_of
from benchmarks.simulate.lab import ALL, percentile, seeded
from benchmarks.simulate.results import Result, Table, milliseconds
from benchmarks.simulate.servers import Server, exponential
from benchmarks.simulate.world import World
from pymicro.balancing.policy.subset import Subset
from pymicro.nodes.node import NodeSet

__all__ = ["run"]

# Of the part under load: so many calls a second for each node make it 70 % busy.
MEAN, SLOTS, RATE = 0.05, 4, 56.0

Scheme = Callable[[NodeSet, int, int], list[list[int]]]
"""From nodes, the number of clients and a size to the places each client uses."""


def _rendezvous(nodes: NodeSet, clients: int, size: int) -> list[list[int]]:
    """What pymicro does."""
    places = {node.key: place for place, node in enumerate(nodes)}
    return [
        [places[node.key] for node in Subset(size, f"client-{client}").choose(nodes)]
        for client in range(clients)
    ]


def _random(nodes: NodeSet, clients: int, size: int) -> list[list[int]]:
    rng = seeded("subsets", size)
    return [rng.sample(range(len(nodes)), size) for _ in range(clients)]


def _two_choices(nodes: NodeSet, clients: int, size: int) -> list[list[int]]:
    """Of two random nodes the one with fewer clients, as if nodes told how many they have."""
    rng = seeded("two choices", size)
    counts = [0] * len(nodes)
    found = []
    for _ in range(clients):
        mine: set[int] = set()
        while len(mine) < size:
            one, other = rng.sample(range(len(nodes)), 2)
            if one in mine or other in mine:
                continue
            better = one if counts[one] <= counts[other] else other
            mine.add(better)
            counts[better] += 1
        found.append(sorted(mine))
    return found


def _indexed(nodes: NodeSet, clients: int, size: int) -> list[list[int]]:
    """Clients are numbered: each round of them deals out all nodes once, shuffled anew.

    "Site Reliability Engineering" (2016), chapter 20, "Deterministic Subsetting"; Twitter's
    deterministic aperture needs the same number, and the same count of clients everywhere.
    """
    found, deal = [], len(nodes) // size
    for client in range(clients):
        order = list(range(len(nodes)))
        seeded("round", client // deal, size).shuffle(order)
        begin = client % deal * size
        found.append(sorted(order[begin : begin + size]))
    return found


SCHEMES: dict[str, Scheme] = {
    "random": _random,
    "rendezvous (pymicro)": _rendezvous,
    "two choices, nodes tell their clients": _two_choices,
    "dealt out, clients are numbered": _indexed,
}


INSIDE = (
    ("rendezvous (pymicro)", "round_robin"),
    ("rendezvous (pymicro)", "p2c"),
    ("dealt out, clients are numbered", "round_robin"),
)


def _evenness(chosen: Sequence[Sequence[int]], nodes: int) -> tuple[float, float]:
    """Load max ÷ mean and min ÷ mean if each client spreads its calls evenly over its nodes."""
    loads = [0] * nodes
    for places in chosen:
        for place in places:
            loads[place] += 1
    mean = sum(loads) / nodes
    return max(loads) / mean, min(loads) / mean


def _under_load(
    balancer: str, nodes: NodeSet, chosen: Sequence[Sequence[int]], seconds: float
) -> tuple[list[int], list[float]]:
    """Calls of the clients on real queues: whether the balancer inside makes good what subsets lack."""
    world = World()
    servers = [
        Server(world, node, exponential(MEAN, seeded("work", place)), slots=SLOTS)
        for place, node in enumerate(nodes)
    ]
    record, by_key = Record(servers), {server.node.key: server for server in servers}
    rate = RATE * len(nodes) / len(chosen)
    for number, places in enumerate(chosen):
        rng = seeded("client", number)
        mine = NodeSet(tuple(nodes.nodes[place] for place in places))
        client = Client(
            world,
            by_key,
            record,
            ALL[balancer](random.Random(rng.random()), world.clock),
            rng,
            mine,
            ejection=False,
        )
        arrivals(world, client.call, rate, rng, seconds)
    world.run(seconds + 10)
    return record.loads(), record.latencies(seconds / 4, seconds)


def run(quick: bool) -> Result:
    count = 60 if quick else 1000
    sizes = (5, 10) if quick else (10, 20, 50, 100, 200)
    nodes = NodeSet.of(nodes_of(count))
    chosen = {(name, size): scheme(nodes, count, size) for name, scheme in SCHEMES.items() for size in sizes}
    even = {key: _evenness(places, count) for key, places in chosen.items()}
    schemes = Table(
        f"{count:,} clients × {count:,} nodes, every client spreads its calls evenly over its subset: "
        "load of the busiest node (and the idlest) ÷ mean",
        ["who is chosen", *(f"{size} nodes" for size in sizes)],
        [[name, *("{:.2f} ({:.2f})".format(*even[name, size]) for size in sizes)] for name in SCHEMES],
    )
    few = 20 if quick else 200
    some = NodeSet.of(nodes_of(few))
    seconds = 1.0 if quick else 6.0
    rows, shown = [], {}
    for size in (5,) if quick else (10, 20, 50, 100):
        for scheme, balancer in INSIDE:
            loads, latencies = _under_load(balancer, some, SCHEMES[scheme](some, few, size), seconds)
            shown[scheme, balancer, size] = percentile(latencies, 99)
            rows.append(
                [
                    f"{size}",
                    scheme,
                    f"`{balancer}`",
                    f"{max(loads) * len(loads) / sum(loads):.2f}",
                    *(milliseconds(percentile(latencies, rank)) for rank in (50, 99, 99.9)),
                ]
            )
    loaded = Table(
        f"The same under load: {few} clients × {few} nodes with {SLOTS} calls at a time of 50 ms "
        "(exponential), 70 % busy on average",
        [
            "subset",
            "who is chosen",
            "balancer",
            "load max ÷ mean",
            "p50 [ms]",
            "p99 [ms]",
            "p99.9 [ms]",
        ],
        rows,
    )

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        looks = {
            "random": ("#999999", ":"),
            "rendezvous (pymicro)": ("#0072B2", "-"),
            "two choices, nodes tell their clients": ("#E69F00", "--"),
            "dealt out, clients are numbered": ("#009E73", "-."),
        }
        for name, (colour, line) in looks.items():
            values = [even[name, size][0] for size in sizes]
            left.plot(sizes, values, line, color=colour, marker="o", label=name)
        left.set_ylabel("load of the busiest node ÷ mean")
        left.set_title(f"{count:,} clients × {count:,} nodes, calls spread evenly")
        for (scheme, balancer), (colour, line) in zip(
            INSIDE, (("#E69F00", "--"), ("#0072B2", "-"), ("#009E73", "-.")), strict=True
        ):
            points = [(key[2], took * 1000) for key, took in shown.items() if key[:2] == (scheme, balancer)]
            label = f"{balancer}, {scheme.partition(',')[0]}"
            right.plot(*zip(*points, strict=True), line, color=colour, marker="o", label=label)
        right.set_ylabel("99th percentile of latency [ms]")
        right.set_ylim(bottom=0)
        right.set_title(f"{few} clients × {few} nodes, 70 % busy")
        for axes, shown_sizes in ((left, sizes), (right, sorted({size for _, _, size in shown}))):
            axes.set_xscale("log")
            axes.set_xticks(shown_sizes, [f"{size}" for size in shown_sizes])
            axes.minorticks_off()
            axes.set_xlabel("nodes in a subset, log scale")
            axes.legend()

    return Result([schemes, loaded], "Load of the busiest node by subset size, and latency under load", draw)
