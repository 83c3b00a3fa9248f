"""One node takes calls and never answers: packets to it are swallowed."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.simulate.clients import Client, Record
from benchmarks.simulate.lab import experiment
from benchmarks.simulate.plots import EJECTION, over_time, share_over_time
from benchmarks.simulate.results import Result, Table, percent
from benchmarks.simulate.servers import Mode, Server, Work, lognormal
from benchmarks.simulate.world import World

__all__ = ["run"]

COMPARED = (
    ("round_robin", False),
    ("least_loaded", False),
    ("peak_ewma", False),
    ("p2c", False),
    ("round_robin", True),
    ("p2c", True),
)


def _work(rng: random.Random) -> Work:
    return lognormal(0.01, 0.5, rng)


def run(quick: bool) -> Result:
    breaks, end = (1.0, 8.0) if quick else (10.0, 60.0)

    def change(world: World, servers: list[Server], client: Client) -> None:
        world.at(breaks, setattr, servers[0], "mode", Mode.SWALLOWS)

    def once(balancer: str, rate: float, ejection: bool, patience: float | None) -> Record:
        return experiment(
            balancer, _work, change, rate=rate, seconds=end, ejection=ejection, patience=patience
        )

    rows, shown = [], {}
    for rate in (10, 100, 1000):
        for balancer, ejection in COMPARED:
            timed_out = once(balancer, rate, ejection, None)
            cancelled = once(balancer, rate, ejection, 0.5)
            if rate == 1000:
                shown[balancer + EJECTION if ejection else balancer] = timed_out
            rows.append(
                [
                    f"{rate:,}",
                    f"`{balancer}`",
                    "on" if ejection else "off",
                    percent(timed_out.share(0, breaks, breaks + 2)),
                    percent(timed_out.share(0, breaks + 2, end)),
                    percent(cancelled.share(0, breaks + 2, end)),
                ]
            )
    table = Table(
        "One of ten nodes of 10 ms swallows everything; its share of calls (the bar: p2c < 1 % after 2 s)",
        [
            "calls a second",
            "balancer",
            "ejection",
            "in the first 2 s",
            "later, deadline 5 s",
            "later, cancelled by the caller after 0.5 s",
        ],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        over_time(
            axes,
            {
                label: share_over_time(record, 0, end, end / 60)
                for label, record in shown.items()
                if label != "p2c" + EJECTION
            },
        )
        axes.axvspan(breaks, end, color="#999999", alpha=0.15, label="it swallows")
        axes.set_ylabel("share of calls [%]")
        axes.set_ylim(bottom=0)
        axes.set_title("Calls that the silent node gets; 1,000 calls a second (even: 10 %)")
        axes.legend(loc="center right")

    return Result([table], "Share of a node that never answers, over time", draw)
