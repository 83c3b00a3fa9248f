"""How many retries a service gets, in fair weather and in a storm."""

from __future__ import annotations

import pytest

from pymicro.balancing.policy.budget import Budget
from tests.balancing.support import Clock


def burst(budget: Budget, clock: Clock) -> int:
    """How many retries it allows at once."""
    count = 0
    while budget.spend(clock()):
        count += 1
        assert count < 10_000
    return count


def succeed(budget: Budget, clock: Clock, rate: float, seconds: float) -> None:
    for _ in range(int(rate * seconds)):
        clock.now += 1 / rate
        budget.succeeded()


def test_a_client_that_has_made_no_call_may_retry_ten_times() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    assert burst(budget, clock) == 10


def test_the_reserve_comes_back_slowly_and_no_further_than_it_was() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    burst(budget, clock)
    clock.now += 9.9
    assert burst(budget, clock) == 0
    clock.now += 0.2
    assert burst(budget, clock) == 1
    clock.now += 86_400
    assert burst(budget, clock) == 10


@pytest.mark.parametrize("rate", [20, 100, 1000, 5000])
def test_a_fifth_of_the_last_second_of_successes_may_be_tried_again(rate: int) -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    succeed(budget, clock, rate, 8)
    assert burst(budget, clock) - 10 == pytest.approx(0.2 * rate, abs=1 + 0.01 * rate)


def test_successes_nobody_looked_at_count_as_spread_over_the_time_since() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    for _ in range(255):
        budget.succeeded()
    clock.now += 10
    assert burst(budget, clock) == 10 + 5  # 25.5 a second: a fifth of a second of it


def test_what_was_earned_is_spent_before_the_reserve() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    for _ in range(100):
        budget.succeeded()
    assert sum(budget.spend(clock()) for _ in range(20)) == 20
    clock.now += 5
    assert burst(budget, clock) == 10


def test_what_was_earned_fades() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    succeed(budget, clock, 1000, 5)
    clock.now += 1.0
    assert burst(budget, clock) - 10 == pytest.approx(200 / 2.718, abs=10)
    succeed(budget, clock, 1000, 5)
    clock.now += 20
    assert burst(budget, clock) <= 10


def test_a_busy_minute_is_not_spread_over_the_quiet_night_before_it() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    budget.succeeded()
    clock.now += 8 * 3600
    succeed(budget, clock, 1000, 60)
    assert burst(budget, clock) > 200


@pytest.mark.parametrize("rate", [1000, 5000])
def test_in_a_full_outage_retries_stay_below_a_tenth_from_two_seconds_on(rate: int) -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    succeed(budget, clock, rate, 30)
    calls = retries = 0
    for second in range(1, 61):
        for _ in range(rate):
            clock.now += 1 / rate
            calls += 1
            retries += budget.spend(clock())
        if second >= 2:
            assert retries <= 0.1 * calls
    assert retries >= 0.15 * rate, "the node that was killed first has its calls tried again"


def test_when_a_tenth_of_the_calls_fail_all_of_them_are_tried_again() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    succeed(budget, clock, 1000, 3)
    refused = 0
    for number in range(20_000):
        clock.now += 0.001
        if number % 10:
            budget.succeeded()
        else:
            refused += not budget.spend(clock())
    assert refused == 0


def test_when_half_of_the_calls_fail_a_fifth_of_the_others_pays_for_retries() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    succeeded = retries = 0
    for number in range(60_000):
        clock.now += 0.001
        if number % 2:
            budget.succeeded()
            succeeded += 1
        else:
            retries += budget.spend(clock())
    assert retries / succeeded == pytest.approx(0.2, abs=0.02)


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    clock = Clock()
    budget = Budget(clock=clock)
    burst(budget, clock)
    clock.now -= 3600
    assert burst(budget, clock) == 0
    clock.now += 10.5
    assert burst(budget, clock) == 1
