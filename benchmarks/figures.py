"""Figures: a median, its 95 % interval, and whether a bar is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

__all__ = ["Bar", "Figure", "Row", "at_least", "at_most", "is_one"]


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of some rounds with the order-statistic interval around it.

    Attributes:
        values: One value a round, as measured.
        median: Their median.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    values: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of `values`, one a round."""
        ordered = sorted(values)
        rank = _rank(len(ordered))
        return cls(tuple(values), median(ordered), ordered[rank], ordered[-1 - rank])


def _rank(count: int) -> int:
    """How many values may be left out at each end for an interval of at least 95 %.

    The number of values below the true median is binomial (count, 1/2) whatever
    their distribution, so nothing is assumed about how the noise is shaped.
    Under six values there is no such interval: the whole range is given.
    """
    rank, tail = 0, 0.5**count
    while tail + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    return rank


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against."""

    kind: Literal["at least", "at most", "is"]
    value: float

    def __str__(self) -> str:
        sign = {"at least": "≥", "at most": "≤", "is": "="}[self.kind]
        return f"{sign} {self.value:g}"

    def verdict(self, figure: Figure) -> str:
        """`met` or `missed`; with a question mark if the bar lies within the interval."""
        inside = figure.low <= self.value <= figure.high
        if self.kind == "is":
            return "met" if inside else "missed"
        good = figure.median >= self.value if self.kind == "at least" else figure.median <= self.value
        return ("met" if good else "missed") + ("?" if inside else "")


def at_least(value: float) -> Bar:
    return Bar("at least", value)


def at_most(value: float) -> Bar:
    return Bar("at most", value)


def is_one() -> Bar:
    """The bar of a control: 1 must lie within the interval."""
    return Bar("is", 1.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: Name of the benchmark, as the command line takes it.
        what: What was measured, under which load, and by which clock.
        figure: The figure.
        unit: Its unit; empty for a ratio.
        bar: What it is held against, if anything.
        detail: The absolute figures behind a ratio.
    """

    benchmark: str
    what: str
    figure: Figure
    unit: str = ""
    bar: Bar | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        return self.bar.verdict(self.figure) if self.bar else "-"
