"""Some nodes, or all, refuse every call: what retries add to it."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.simulate.clients import Client, Record
from benchmarks.simulate.lab import experiment
from benchmarks.simulate.results import Result, Table, percent
from benchmarks.simulate.servers import Mode, Server, Work, lognormal
from benchmarks.simulate.world import World

__all__ = ["run"]

RATE, NODES = 200, 10
SHARES = (1, 3, 6, 10)


def _work(rng: random.Random) -> Work:
    return lognormal(0.01, 0.5, rng)


def _amplification(record: Record, since: float, until: float) -> float:
    calls = sum(since <= begun < until for begun in record.begun)
    return sum(record.loads(since, until)) / max(1, calls)


def run(quick: bool) -> Result:
    breaks, mends, end = (1.0, 5.0, 6.0) if quick else (10.0, 40.0, 60.0)

    def once(balancer: str, bad: int, retries: int, budget: bool) -> Record:
        def change(world: World, servers: list[Server], client: Client) -> None:
            for server in servers[:bad]:
                world.at(breaks, setattr, server, "mode", Mode.SHEDS)
                world.at(mends, setattr, server, "mode", Mode.SERVES)

        return experiment(
            balancer,
            _work,
            change,
            rate=RATE,
            seconds=end,
            nodes=NODES,
            ejection=True,
            retries=retries,
            budget=budget,
        )

    ways = [
        ("round_robin", 0, True),
        ("round_robin", 1, True),
        ("p2c", 1, True),
        ("round_robin", 3, True),
        ("p2c", 3, True),
        ("round_robin", 3, False),
    ]
    rows, full = [], {}
    for bad in SHARES:
        for balancer, retries, budget in ways:
            record = once(balancer, bad, retries, budget)
            if bad == NODES and balancer == "round_robin":
                label = "no retries" if not retries else f"{retries} retr{'y' if retries == 1 else 'ies'}"
                full[label + ("" if budget or not retries else ", no budget")] = record
            rows.append(
                [
                    f"{bad * 100 // NODES} %",
                    f"`{balancer}`",
                    f"{retries}",
                    ("yes" if budget else "no") if retries else "-",
                    f"{_amplification(record, breaks, breaks + 2):.2f}",
                    f"{_amplification(record, breaks + 2, mends):.3f}",
                    percent(1 - record.failed(breaks + 2, mends)),
                ]
            )
    table = Table(
        f"Of ten nodes some refuse every call for 30 s so that it may be retried; {RATE} calls a second "
        "(the bar: in a full outage attempts ≤ 1.1 × calls)",
        [
            "nodes refusing",
            "balancer",
            "retries",
            "budget",
            "attempts ÷ calls, first 2 s",
            "then",
            "calls that succeeded then",
        ],
        rows,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        styles = [("#999999", ":"), ("#0072B2", "-"), ("#009E73", "--"), ("#D55E00", "-.")]
        for (label, record), (colour, line) in zip(full.items(), styles, strict=True):
            seconds = [float(second) for second in range(int(end))]
            axes.plot(
                [second + 0.5 for second in seconds],
                [_amplification(record, second, second + 1) for second in seconds],
                line,
                color=colour,
                label=label,
            )
        axes.axhline(1.1, color="black", linewidth=0.8)
        axes.annotate("bar: 1.1", (end, 1.1), ha="right", va="bottom")
        axes.axvspan(breaks, mends, color="#999999", alpha=0.15, label="all nodes refuse")
        axes.set_ylim(bottom=0.9)
        axes.set_xlabel("time [s]")
        axes.set_ylabel("attempts ÷ calls")
        axes.set_title("What retries add in a full outage (round_robin)")
        axes.legend(loc="center right")

    return Result([table], "Attempts for each call over the time of a full outage", draw, (8.5, 4.2))
