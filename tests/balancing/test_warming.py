"""How a new node's share grows."""

from __future__ import annotations

import pytest

from pymicro.balancing.policy.warming import Warming


def test_a_share_grows_in_a_straight_line_from_a_tenth_to_all() -> None:
    warming = Warming(10.0)
    warming.joined("a", 100.0)
    shares = [warming.share("a", 100.0 + age) for age in (-5.0, 0.0, 2.5, 5.0, 7.5, 9.9, 10.0, 500.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.325, 0.55, 0.775, 0.991, 1.0, 1.0])


def test_who_did_not_join_has_all() -> None:
    warming = Warming(10.0)
    warming.joined("a", 100.0)
    assert warming.share("b", 100.0) == 1.0
    warming.left("a")
    warming.left("a")
    assert warming.share("a", 100.0) == 1.0


@pytest.mark.parametrize(("reachable", "ramping"), [(3, False), (4, False), (5, True), (100, True)])
def test_nobody_is_spared_where_half_are_new(reachable: int, ramping: bool) -> None:
    warming = Warming(10.0)
    for key in "ab":
        warming.joined(key, 100.0)
    warming.review(reachable, 101.0)
    assert warming.ramping == ramping


def test_the_warm_ones_are_forgotten() -> None:
    warming = Warming(10.0)
    warming.joined("a", 100.0)
    warming.joined("b", 105.0)
    warming.review(3, 110.0)
    assert len(warming) == 1
    assert warming.ramping
    warming.review(3, 115.0)
    assert len(warming) == 0
    assert not warming.ramping


def test_once_the_last_one_is_seen_to_be_warm_nothing_more_is_asked() -> None:
    warming = Warming(10.0)
    warming.joined("a", 100.0)
    warming.joined("b", 101.0)
    warming.review(10, 101.0)
    warming.share("a", 110.5)
    assert warming.ramping
    warming.share("b", 111.0)
    assert not warming.ramping
