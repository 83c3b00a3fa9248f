"""Long streams and short calls side by side, and a node that comes later."""

from __future__ import annotations

from typing import Any

from benchmarks.simulate.clients import Client, Record, arrivals, nodes_of
from benchmarks.simulate.lab import ALL, seeded
from benchmarks.simulate.plots import look
from benchmarks.simulate.results import Result, Table
from benchmarks.simulate.servers import Server, exponential
from benchmarks.simulate.world import World
from pymicro.nodes.node import NodeSet

__all__ = ["run"]

NODES, MEAN, CALLS = 3, 0.01, 100.0
# Streams begun a second, and how long they last on average.
RATE, LASTS = 4.0, 60.0
# Seconds until a first response; None is a stream that waits for an event which never comes.
FIRST = {"after 20 ms": 0.02, "never": None}


class _Lab:
    """One client, two nodes for a while, then a third.

    Attributes:
        new: The new node's part of an even share of the streams, second by second.
        busiest: The part of the node with the most.
        calls: The new node's part of an even share of the other calls, from its coming on.
    """

    def __init__(self, balancer: str, first: float | None, joins: int, seconds: int) -> None:
        world = World()
        everyone = nodes_of(NODES)
        servers = [
            Server(world, node, exponential(MEAN, seeded("work", place)))
            for place, node in enumerate(everyone)
        ]
        record = Record(servers)
        choose = ALL[balancer](seeded("balancer"), world.clock)
        by_key = {server.node.key: server for server in servers}
        client = Client(world, by_key, record, choose, seeded("client"), NodeSet.of(everyone[:-1]))
        lengths = seeded("lengths")
        arrivals(world, client.call, CALLS, seeded("arrivals"), seconds)
        arrivals(
            world,
            lambda: client.stream(first, lengths.expovariate(1 / LASTS)),
            RATE,
            seeded("streams"),
            seconds,
        )
        world.at(joins, client.see, NodeSet.of(everyone))
        self.new: list[float] = []
        self.busiest: list[float] = []
        for second in range(1, seconds + 1):
            world.run(second)
            self._note(record)
        self.calls = NODES * record.share(NODES - 1, since=joins)

    def _note(self, record: Record) -> None:
        mean = max(1, sum(record.streams)) / NODES
        self.new.append(record.streams[-1] / mean)
        self.busiest.append(max(record.streams) / mean)


def run(quick: bool) -> Result:
    joins, seconds = (20, 60) if quick else (120, 300)
    rows, shown = [], {}
    for balancer in ("round_robin", "least_loaded", "p2c"):
        for label, first in FIRST.items():
            lab = _Lab(balancer, first, joins, seconds)
            rows.append(
                [
                    f"`{balancer}`",
                    label,
                    *(f"{lab.new[joins + after - 1]:.2f}" for after in (5, 15, 30)),
                    f"{max(lab.busiest[2 * seconds // 3 :]):.2f}",
                    f"{lab.calls:.2f}",
                ]
            )
            if first is not None:
                shown[balancer] = lab.new
    table = Table(
        f"{RATE:g} streams a second that last {LASTS:g} s, and {CALLS:g} calls a second of 10 ms, over two "
        f"nodes; a third comes after {joins} s. Its part of an even share of the streams, the most that any "
        "node has in the last third of the time, and its part of an even share of the calls",
        ["balancer", "first response", "after 5 s", "after 15 s", "after 30 s", "most", "calls"],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for label, points in shown.items():
            axes.plot(range(1, seconds + 1), points, label=label, **look(label))
        axes.axvline(joins, color="#999999", label="the third node comes")
        axes.set_xlabel("time [s]")
        axes.set_ylabel("its part of an even share of the streams")
        axes.set_title("Long streams and a new node")
        axes.legend(loc="lower right")

    return Result([table], "How many streams a new node has, over time", draw, (8.5, 4.2))
