"""When a node is an outlier, and how long it is out."""

from __future__ import annotations

import pytest

from pymicro.balancing.policy.decay import decay
from pymicro.balancing.policy.outliers import History, Outliers, most_out


def even(low: float, high: float) -> float:
    return (low + high) / 2


class Watched:
    """Outliers with nodes a, b, c, and calls made to them one after the other."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.outliers = Outliers(self.now, even)
        self.outliers.keep((), "abc", self.now)

    def __getitem__(self, key: str) -> History:
        return self.outliers.histories[key]

    def succeed(self, key: str, count: int = 1) -> None:
        self[key].successes += count
        self.outliers.everyone.successes += count

    def fail(self, key: str) -> str:
        return self.outliers.fail(self[key], self.now)

    def serve(self, key: str, pattern: str, rate: float = 10.0) -> str:
        """Calls that end as `pattern` says, `+` or `-`; the last reason given."""
        reason = ""
        for end in pattern:
            self.now += 1 / rate
            if end == "+":
                self.succeed(key)
            else:
                reason = self.fail(key)
        return reason

    def out_for(self, key: str) -> float:
        return self.outliers.eject(key, self.now)

    def back(self, key: str) -> None:
        self.now = max(self.now, self[key].due)
        self.outliers.back(key, self.now)


def test_counts_fade_with_their_time_constant() -> None:
    left, spread = decay(10.0, 10.0)
    assert left == pytest.approx(0.3679, abs=1e-4)
    assert spread == pytest.approx(0.6321, abs=1e-4)
    assert decay(0.0, 10.0) == decay(-1.0, 10.0) == (1.0, 1.0)
    assert decay(1e9, 10.0) == pytest.approx((0.0, 1e-8))
    assert decay(1e-7, 10.0) == pytest.approx((1.0, 1.0))


def test_five_failures_in_a_row_are_enough() -> None:
    watched = Watched()
    assert watched.serve("a", "----") == ""
    assert "5 calls in a row" in watched.serve("a", "-")


def test_a_success_begins_the_row_anew() -> None:
    watched = Watched()
    assert watched.serve("a", "----+----") == ""
    assert watched.serve("a", "-") != ""


def test_a_row_is_each_nodes_own() -> None:
    watched = Watched()
    for key in "abcabcabcabc":
        assert watched.serve(key, "-") == ""
    assert watched.serve("a", "-") != ""


def test_half_of_twenty_calls_are_too_many_where_the_others_do_well() -> None:
    watched = Watched()
    watched.serve("b", "+" * 60)
    assert watched.serve("a", "-+" * 8) == ""
    assert "% of about" in watched.serve("a", "-+" * 8)


def test_less_than_half_is_not_enough() -> None:
    watched = Watched()
    for _ in range(100):
        watched.serve("b", "+++")
        assert watched.serve("a", "-++") == ""


def test_few_calls_say_nothing_of_a_rate() -> None:
    # Two calls a second: about 20 within the time constant are never reached.
    watched = Watched()
    for _ in range(60):
        watched.serve("b", "++++", rate=100)
        assert watched.serve("a", "--+", rate=1.5) == ""


def test_where_all_fail_alike_nobody_is_an_outlier() -> None:
    watched = Watched()
    for _ in range(50):
        for key in "abc":
            assert watched.serve(key, "-+-", rate=100) == ""


def test_who_fails_twice_as_often_as_the_others_is_an_outlier_and_less_is_not() -> None:
    for others, found in (("-++++", True), ("-+", False)):
        watched = Watched()
        reasons = ""
        for _ in range(40):
            watched.serve("b", others, rate=100)
            watched.serve("c", others, rate=100)
            reasons += watched.serve("a", "--+--+", rate=100)
        assert bool(reasons) == found


def test_without_calls_on_other_nodes_there_is_nothing_to_be_worse_than() -> None:
    watched = Watched()
    assert watched.serve("a", "--+" * 40) == ""


def test_what_is_long_ago_does_not_count() -> None:
    watched = Watched()
    watched.serve("b", "+" * 1000, rate=10)
    watched.serve("a", "-+" * 9)
    watched.now += 100
    watched.serve("b", "+" * 100)
    assert watched.serve("a", "-+" * 8) == ""


def test_many_healthy_calls_outweigh_a_few_failures() -> None:
    watched = Watched()
    watched.serve("b", "+" * 1000, rate=100)
    watched.serve("a", "+" * 1000, rate=100)
    assert watched.serve("a", "--+" * 60, rate=100) == ""


def test_each_ejection_is_twice_as_long_up_to_a_minute() -> None:
    watched = Watched()
    lengths = []
    for _ in range(9):
        lengths.append(watched.out_for("a"))
        watched.back("a")
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_failed_probe_is_as_another_ejection() -> None:
    watched = Watched()
    assert [watched.out_for("a") for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_length_varies_by_a_fifth() -> None:
    outliers = Outliers(0.0)
    outliers.keep((), map(str, range(300)), 0.0)
    lengths = [outliers.eject(str(number), 0.0) for number in range(300)]
    assert min(lengths) >= 0.8
    assert max(lengths) <= 1.2
    assert min(lengths) < 0.85
    assert max(lengths) > 1.15


def test_time_in_service_is_forgotten_for_ten_seconds_each() -> None:
    watched = Watched()
    for _ in range(5):
        watched.out_for("a")
    watched.back("a")
    watched.now += 20.0
    assert watched.out_for("a") == 8
    watched.back("a")
    watched.now += 9.9
    assert watched.out_for("a") == 16
    watched.back("a")
    watched.now += 3600
    assert watched.out_for("a") == 1


def test_after_the_longest_a_minute_in_service_makes_good_for_all() -> None:
    watched = Watched()
    for _ in range(50):
        watched.out_for("a")
    watched.back("a")
    watched.now += 60.1
    assert watched.out_for("a") == 1


def test_time_out_of_service_makes_good_for_nothing() -> None:
    watched = Watched()
    watched.out_for("a")
    watched.now += 3600
    assert watched.out_for("a") == 2


def test_who_is_back_begins_with_nothing_against_it() -> None:
    watched = Watched()
    watched.serve("b", "+" * 50)
    watched.serve("a", "-----")
    watched.out_for("a")
    watched.back("a")
    assert watched.serve("a", "----") == ""
    assert watched.serve("a", "-") != ""


def test_nor_is_a_rate_of_before_held_against_it() -> None:
    watched = Watched()
    watched.serve("b", "+" * 1000, rate=1000)
    assert "%" in watched.serve("a", "-+" * 20 + "-", rate=100)
    watched.out_for("a")
    watched.back("a")
    watched.serve("b", "+" * 1000, rate=1000)
    assert watched.serve("a", "+-" * 9, rate=100) == ""


def test_what_an_ejected_node_did_well_is_not_credited_to_the_others() -> None:
    watched = Watched()
    watched.serve("a", "+" * 1000 + "-----", rate=1000)
    watched.out_for("a")
    for _ in range(30):
        for key in "bc":
            assert watched.serve(key, "-+", rate=100) == ""


def test_what_an_ejected_node_failed_is_not_held_against_the_others() -> None:
    watched = Watched()
    watched.serve("b", "+" * 50, rate=100)
    for _ in range(3):
        watched.serve("a", "-" * 100, rate=1000)
        watched.out_for("a")
        watched.back("a")
    watched.serve("a", "+")
    assert "%" in watched.serve("c", "-+" * 15, rate=100)


def test_records_are_kept_for_those_present_only() -> None:
    watched = Watched()
    watched.serve("a", "----")
    watched.out_for("b")
    watched.outliers.keep((), "a", watched.now)
    assert watched.serve("a", "-") != "", "the same history"
    watched.outliers.keep("ab", (), watched.now)
    watched.outliers.keep((), "ab", watched.now)
    assert watched.serve("a", "----") == ""
    assert watched.outliers.ejected == {}
    watched.outliers.keep(("nobody",), (), watched.now)


@pytest.mark.parametrize(("nodes", "most"), [(1, 1), (2, 1), (10, 1), (19, 1), (20, 2), (1000, 100)])
def test_a_tenth_may_be_out_but_one(nodes: int, most: int) -> None:
    assert most_out(nodes) == most
