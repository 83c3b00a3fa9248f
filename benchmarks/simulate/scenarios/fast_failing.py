"""One node answers each call with an error, faster than any other could serve it."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.simulate.clients import Client, Record
from benchmarks.simulate.lab import experiment
from benchmarks.simulate.plots import EJECTION, over_time, share_over_time
from benchmarks.simulate.results import Result, Table, milliseconds, percent
from benchmarks.simulate.servers import Mode, Server, Work, lognormal
from benchmarks.simulate.world import World

__all__ = ["run"]

COMPARED = ("round_robin", "random", "least_loaded", "peak_ewma", "p2c")


# Calls a second, and the median of a call's work in seconds: the last has ten calls in flight on each node.
LOADS = ((10, 0.01), (100, 0.01), (1000, 0.01), (1000, 0.1))
SHOWN = LOADS[-1]


def _tried_again(record: Record, since: float) -> str:
    """Seconds until the first call the node gets after `since`."""
    return next(
        (
            f"{moment - since:.1f}"
            for moment, place in zip(record.picked, record.nodes, strict=True)
            if place == 0 and moment >= since
        ),
        "-",
    )


def run(quick: bool) -> Result:
    breaks, mends, end = (1.0, 4.0, 6.0) if quick else (10.0, 40.0, 90.0)

    def change(world: World, servers: list[Server], client: Client) -> None:
        world.at(breaks, setattr, servers[0], "mode", Mode.FAILS)
        world.at(mends, setattr, servers[0], "mode", Mode.SERVES)

    def once(balancer: str, rate: float, median: float, ejection: bool) -> Record:
        def work(rng: random.Random) -> Work:
            return lognormal(median, 0.5, rng)

        return experiment(balancer, work, change, rate=rate, seconds=end, ejection=ejection)

    rows, shown = [], {}
    for rate, median in LOADS:
        for balancer, ejection in [
            *((name, False) for name in COMPARED),
            ("round_robin", True),
            ("p2c", True),
        ]:
            record = once(balancer, rate, median, ejection)
            if (rate, median) == SHOWN:
                shown[balancer + EJECTION if ejection else balancer] = record
            rows.append(
                [
                    f"{rate:,} of {milliseconds(median)} ms",
                    f"`{balancer}`",
                    "on" if ejection else "off",
                    percent(record.share(0, breaks, breaks + 2)),
                    percent(record.share(0, breaks + 2, mends)),
                    _tried_again(record, mends),
                ]
            )
    table = Table(
        "One of ten nodes answers INTERNAL after 1 ms, for 30 s; its share of calls (all of them fail)",
        ["calls a second", "balancer", "ejection", "in the first 2 s", "then", "well, called after [s]"],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        over_time(
            axes,
            {
                label: share_over_time(record, 0, end, end / 90)
                for label, record in shown.items()
                if label not in ("random", "p2c" + EJECTION)
            },
        )
        axes.axvspan(breaks, mends, color="#999999", alpha=0.15, label="it fails")
        axes.set_ylabel("share of calls [%]")
        axes.set_ylim(bottom=0)
        axes.set_title("Calls that the failing node gets; 1,000 calls a second of 100 ms (even: 10 %)")
        axes.legend(loc="upper right")

    return Result([table], "Share of a node that fails at once, over time", draw)
