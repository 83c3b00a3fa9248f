"""Every node stands still now and then, as garbage collection makes it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from benchmarks.simulate.lab import experiment, percentile
from benchmarks.simulate.plots import latency_curves
from benchmarks.simulate.results import Result, Table, milliseconds
from benchmarks.simulate.servers import Work, exponential, pauses

__all__ = ["run"]

COMPARED = ("round_robin", "random", "least_loaded", "peak_ewma", "p2c")
MEAN, SLOTS, NODES = 0.01, 4, 10
EVERY, LENGTH = 10.0, 0.2


def _work(rng: random.Random) -> Work:
    return exponential(MEAN, rng)


def run(quick: bool) -> Result:
    seconds = 1.0 if quick else 20.0

    def stands(rng: random.Random) -> Sequence[tuple[float, float]]:
        return pauses(EVERY, LENGTH, seconds + 10, rng)

    rows, shown = [], {}
    for load in (0.5, 0.85):
        for balancer in COMPARED:
            rate = load * NODES * SLOTS / MEAN
            record = experiment(
                balancer, _work, rate=rate, seconds=seconds, nodes=NODES, slots=SLOTS, stands=stands
            )
            latencies, loads = record.latencies(), record.loads()
            if load > 0.5:
                shown[balancer] = latencies
            rows.append(
                [
                    f"{load * 100:.0f} %",
                    f"`{balancer}`",
                    *(milliseconds(percentile(latencies, rank)) for rank in (50, 90, 99, 99.9)),
                    f"{max(loads) * len(loads) / sum(loads):.2f}",
                ]
            )
    table = Table(
        f"Ten nodes that work on {SLOTS} calls at a time, 10 ms each (exponential), "
        "and stand still for 200 ms every 10 s",
        ["load", "balancer", "p50 [ms]", "p90 [ms]", "p99 [ms]", "p99.9 [ms]", "load max ÷ mean"],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        latency_curves(axes, shown)
        axes.set_title("Latency with pauses of 200 ms, nodes 85 % busy")
        axes.legend()

    return Result([table], "Latency by percentile where nodes pause", draw, (7.5, 4.2))
