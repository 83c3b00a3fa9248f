from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmarks are no part of the wheel.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (10, 2), (30, 10), (31, 10), (80, 31), (100, 40)])
def test_the_interval_has_the_textbook_ranks(count: int, rank: int) -> None:
    from benchmarks.figures import Figure

    figure = Figure.of([float(value) for value in range(count, 0, -1)])
    assert (figure.low, figure.high) == (rank, count + 1 - rank)
    assert figure.median == (count + 1) / 2


@pytest.mark.parametrize("count", range(6, 120))
def test_the_interval_is_the_narrowest_that_covers_95_percent(count: int) -> None:
    from benchmarks.figures import Figure

    low = int(Figure.of([float(value) for value in range(count)]).low)

    def outside(rank: int) -> float:
        return 2 * sum(math.comb(count, below) for below in range(rank + 1)) / 2**count

    assert outside(low) <= 0.05 < outside(low + 1)


def test_under_six_rounds_the_whole_range_is_given() -> None:
    from benchmarks.figures import Figure

    assert Figure.of([3.0]) == Figure((3.0,), 3.0, 3.0, 3.0)
    assert Figure.of([1.0, 5.0, 2.0, 4.0, 3.0]) == Figure((1.0, 5.0, 2.0, 4.0, 3.0), 3.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("low", "median", "high", "at_least", "at_most"),
    [
        (0.96, 0.97, 0.98, "met", "missed"),
        (0.94, 0.97, 0.98, "met?", "missed?"),
        (0.92, 0.94, 0.96, "missed?", "met?"),
        (0.92, 0.93, 0.94, "missed", "met"),
    ],
)
def test_a_verdict_says_when_the_bar_lies_within_the_interval(
    low: float, median: float, high: float, at_least: str, at_most: str
) -> None:
    from benchmarks import figures

    figure = figures.Figure((), median, low, high)
    assert figures.at_least(0.95).verdict(figure) == at_least
    assert figures.at_most(0.95).verdict(figure) == at_most


def test_a_control_is_met_if_one_lies_within_its_interval() -> None:
    from benchmarks.figures import Figure, is_one

    assert is_one().verdict(Figure((), 1.02, 0.99, 1.05)) == "met"
    assert is_one().verdict(Figure((), 1.02, 1.01, 1.05)) == "missed"
    assert is_one().verdict(Figure((), 0.98, 0.95, 0.99)) == "missed"


async def test_sides_alternate_and_are_opened_anew_every_few_rounds() -> None:
    from benchmarks.rounds import Pair, Settings, Side, compare

    spent = {"subject": 0.0, "baseline": 0.0}
    log: list[Any] = []

    async def work(stub: str, count: int) -> None:
        log.append((stub, count))
        # The subject needs a quarter more CPU time for the same count.
        spent[stub] += count * (1.25 if stub == "subject" else 1.0)
        await asyncio.sleep(0.002)

    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        log.append("open")
        yield Pair(
            Side("subject", lambda: spent["subject"]),
            Side("baseline", lambda: spent["baseline"]),
        )
        log.append("close")

    found = await compare(opener, work, Settings(rounds=5, seconds=0.001, fresh=2))

    assert found.cpu == [pytest.approx(0.8)] * 5
    assert len(found.clock) == 5
    assert log.count("open") == log.count("close") == 3
    # Calibration goes through several counts; the slots measured use the last one.
    rounds = [
        side for side, count in (entry for entry in log if isinstance(entry, tuple)) if count == log[-2][1]
    ]
    assert rounds[-4:] == ["subject", "baseline", "baseline", "subject"]


def _round(first: str) -> list[str]:
    subject, baseline = "subject", "baseline"
    return [subject, baseline, baseline, subject] if first == "s" else [baseline, subject, subject, baseline]
