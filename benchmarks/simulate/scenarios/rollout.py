"""Every node is replaced by a new one that is cold at first."""

from __future__ import annotations

from typing import Any

from benchmarks.simulate.clients import Client, Record, arrivals, nodes_of
from benchmarks.simulate.lab import ALL, percentile, seeded
from benchmarks.simulate.plots import logarithmic, look
from benchmarks.simulate.results import Result, Table, milliseconds
from benchmarks.simulate.servers import Server, exponential
from benchmarks.simulate.world import World
from pymicro.nodes.node import NodeSet

__all__ = ["run"]

COMPARED = (("round_robin", 0.0), ("round_robin", 5.0), ("p2c", 0.0), ("p2c", 5.0))
NODES, SLOTS, MEAN, LOAD = 10, 4, 0.01, 0.6
# A process that was just started takes five times as long, and less and less so for five seconds.
COLD, WARM_AFTER = 5.0, 5.0


def _rollout(balancer: str, slow_start: float, between: float) -> tuple[Record, float]:
    """Node after node comes and another one leaves, every `between` seconds."""
    world, end = World(), between * (NODES + 2)
    everyone = nodes_of(2 * NODES)
    old, new = everyone[:NODES], everyone[NODES:]

    def cold(born: float) -> Any:
        return lambda now: max(1.0, COLD - (COLD - 1.0) * (now - born) / WARM_AFTER)

    servers = []
    for place, node in enumerate(everyone):
        server = Server(world, node, exponential(MEAN, seeded("work", place)), slots=SLOTS)
        if place >= NODES:
            server.slowness = cold(between * (place - NODES + 1))
        servers.append(server)
    record = Record(servers)
    client = Client(
        world,
        {server.node.key: server for server in servers},
        record,
        ALL[balancer](seeded("balancer"), world.clock),
        seeded("client"),
        NodeSet.of(old),
        slow_start=slow_start,
    )
    for step in range(1, NODES + 1):
        # Its connection to the new one is there first, as Kubernetes surges.
        both = NodeSet.of([*old[step - 1 :], *new[:step]])
        world.at(between * step, client.see, both)
        world.at(between * step + 0.5, client.see, NodeSet.of([*old[step:], *new[:step]]))
    arrivals(world, client.call, LOAD * NODES * SLOTS / MEAN, seeded("arrivals"), end)
    world.run(end + 10)
    return record, end


def run(quick: bool) -> Result:
    between = 0.6 if quick else 2.0
    rows, shown = [], {}
    for balancer, slow_start in COMPARED:
        record, end = _rollout(balancer, slow_start, between)
        latencies = record.latencies(between, end)
        label = f"{balancer}, slow start {slow_start:g} s"
        width = between / 4
        slots = int(end / width)
        split: list[list[float]] = [[] for _ in range(slots)]
        for begun, took in zip(record.begun, record.took, strict=True):
            if begun < end:
                split[min(slots - 1, int(begun / width))].append(took)
        shown[label] = [
            ((slot + 0.5) * width, percentile(sorted(took), 99) * 1000) for slot, took in enumerate(split)
        ]
        rows.append(
            [
                f"`{balancer}`",
                f"{slow_start:g} s" if slow_start else "off",
                *(milliseconds(percentile(latencies, rank)) for rank in (50, 90, 99, 99.9)),
                milliseconds(latencies[-1]),
            ]
        )
    table = Table(
        f"Ten nodes, {LOAD * 100:.0f} % busy, are replaced one by one every {between:g} s; "
        "new ones take five times as long at first and are warm after 5 s",
        ["balancer", "slow start", "p50 [ms]", "p90 [ms]", "p99 [ms]", "p99.9 [ms]", "longest [ms]"],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for label, points in shown.items():
            style = look(label) | {"linestyle": "-" if "start 0" in label else "--"}
            axes.plot(
                *zip(*points, strict=True), label=label.replace("slow start 0 s", "no slow start"), **style
            )
        logarithmic(axes)
        axes.axvspan(between, between * NODES + 0.5, color="#999999", alpha=0.15, label="nodes are replaced")
        axes.set_xlabel("time [s]")
        axes.set_ylabel("99th percentile of latency [ms], log scale")
        axes.set_title("A rollout with cold nodes")
        axes.legend(ncols=2, loc="upper right", bbox_to_anchor=(1.0, 0.82))

    return Result([table], "The 99th percentile over the time of a rollout", draw, (8.5, 4.2))
