"""One node is slow: the published experiment, and the bar of pymicro's own."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.simulate.clients import Client, Record
from benchmarks.simulate.lab import experiment, percentile
from benchmarks.simulate.plots import latency_curves, over_time, share_over_time
from benchmarks.simulate.results import Result, Table, milliseconds, percent
from benchmarks.simulate.servers import Server, Work, constant, exponential, lognormal, normal
from benchmarks.simulate.world import World

__all__ = ["run"]

COMPARED = ("round_robin", "random", "least_loaded", "peak_ewma", "p2c")

# "Beyond Round Robin: Load Balancing for Latency" (Buoyant, 2016), run on Finagle's simulator:
# 11 servers with a median of 167 ms and a deviation of 5 ms, one client with 1,000 calls a second
# for a minute; after 15 s one server takes 2 s for 30 s. "If the caller used a timeout of 1
# second, its success rate would be approximately 95 % … 99 % … and 99.9 %".
PUBLISHED = {"round_robin": "95 %", "least_loaded": "99 %", "peak_ewma": "99.9 %"}
SLOW, USUAL_SPREAD, SLOWED = 0.167, 0.005, 2.0

# The bar: one of ten nodes is ten times slower.
SHAPES = {
    "constant": lambda rng: constant(0.01),
    "lognormal": lambda rng: lognormal(0.01, 0.5, rng),
    "exponential": lambda rng: exponential(0.01, rng),
}


def _published(balancer: str, minute: float) -> Record:
    def change(world: World, servers: list[Server], client: Client) -> None:
        usual = servers[0].work
        world.at(minute / 4, setattr, servers[0], "work", constant(SLOWED))
        world.at(minute * 3 / 4, setattr, servers[0], "work", usual)

    def work(rng: random.Random) -> Work:
        return normal(SLOW, USUAL_SPREAD, rng)

    return experiment(balancer, work, change, nodes=11, rate=1000, seconds=minute)


def _make_slow(world: World, servers: list[Server], client: Client) -> None:
    servers[0].slowness = lambda now: 10.0


def _bars(seconds: float) -> list[list[str]]:
    rows = []
    for shape, work in SHAPES.items():
        for rate in (100, 1000):
            usual = percentile(
                experiment("p2c", work, rate=rate, seconds=seconds * 1000 / rate).latencies(), 99
            )
            cells = []
            for balancer in COMPARED:
                record = experiment(balancer, work, _make_slow, rate=rate, seconds=seconds * 1000 / rate)
                times = percentile(record.latencies(), 99) / usual
                cells.append(f"{times:.2f} ×, {percent(record.share(0))}")
            rows.append([f"{shape}, {rate:,}", milliseconds(usual), *cells])
    return rows


def run(quick: bool) -> Result:
    minute = 3.0 if quick else 60.0
    records = {balancer: _published(balancer, minute) for balancer in COMPARED}
    rows = []
    for balancer, record in records.items():
        latencies = record.latencies()
        within = sum(took <= 1.0 for took in latencies) / len(latencies)
        rows.append(
            [
                f"`{balancer}`",
                *(milliseconds(percentile(latencies, rank)) for rank in (50, 95, 99, 99.9)),
                f"{within * 100:.2f} %",
                PUBLISHED.get(balancer, "-"),
                percent(record.share(0, minute / 4, minute * 3 / 4)),
            ]
        )
    published = Table(
        "The published experiment: 11 nodes of 167 ms, one takes 2 s for half of the minute; "
        "1,000 calls a second",
        [
            "balancer",
            "p50 [ms]",
            "p95 [ms]",
            "p99 [ms]",
            "p99.9 [ms]",
            "within 1 s",
            "published",
            "slow node's share",
        ],
        rows,
    )
    bars = Table(
        "The bar (p2c: p99 ≤ 1.25 × that without a slow node, its share ≤ 2 %): "
        "one of ten nodes of 10 ms takes ten times as long",
        ["work, calls a second", "usual p99 [ms]", *(f"`{balancer}`" for balancer in COMPARED)],
        _bars(1.0 if quick else 20.0),
    )

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        latency_curves(left, {balancer: record.latencies() for balancer, record in records.items()})
        left.set_title("Latency of all calls of the minute")
        left.legend()
        over_time(
            right,
            {
                balancer: share_over_time(record, 0, minute, minute / 60)
                for balancer, record in records.items()
                if balancer != "random"
            },
        )
        right.axvspan(minute / 4, minute * 3 / 4, color="#999999", alpha=0.15, label="it takes 2 s")
        right.set_ylabel("share of calls [%]")
        right.set_ylim(bottom=0)
        right.set_title("Calls that the slow node gets (even: 9.1 %)")
        right.legend()

    return Result([published, bars], "Latency by percentile, and the slow node's share over time", draw)
