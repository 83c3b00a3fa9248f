from __future__ import annotations

import random

import pytest

from pymicro.cli.histogram import Histogram


def test_nothing_is_zero() -> None:
    nothing = Histogram()
    assert (nothing.count, nothing.least, nothing.mean, nothing.percentile(99), nothing.most) == (
        0,
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 0.000_999, 0.001, 0.5, 1.0, 59.0, 3600.0])
def test_one_value_is_all_of_its_figures(seconds: float) -> None:
    one = Histogram()
    one.add(seconds)
    assert one.least == one.mean == one.most == one.percentile(50) == seconds


def test_percentiles_are_within_half_a_percent_of_the_sorted_values() -> None:
    chance = random.Random(7)
    values = sorted(chance.lognormvariate(-6, 2) for _ in range(20_000))
    many = Histogram()
    for value in values:
        many.add(value)
    for percent in (0.1, 1, 25, 50, 75, 90, 95, 99, 99.9):
        exact = values[round(len(values) * percent / 100) - 1]
        assert many.percentile(percent) == pytest.approx(exact, rel=0.005)
    assert many.percentile(100) == pytest.approx(values[-1], rel=0.005)
    assert many.mean == pytest.approx(sum(values) / len(values))


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    few = Histogram()
    for seconds in (0.001, 0.001, 0.001, 0.1):
        few.add(seconds)
    assert few.percentile(75) == pytest.approx(0.001, rel=0.005)
    assert few.percentile(75.1) == pytest.approx(0.1, rel=0.005)


def test_what_is_longer_than_it_can_count_is_its_longest() -> None:
    long = Histogram()
    long.add(0.001)
    long.add(1e6)
    assert long.count == 2
    assert long.most == 1e6
    assert long.percentile(99) > 3600
