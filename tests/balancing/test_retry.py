"""Which failed calls are tried again, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pymicro.balancing.policy.retry import Failure, RetryPolicy

NOT_RUN = Failure(code=14, may_have_run=False, idempotent=False, attempts=1, left=5.0)
MAY_HAVE_RUN = Failure(code=14, may_have_run=True, idempotent=False, attempts=1, left=5.0)
IDEMPOTENT = Failure(code=14, may_have_run=True, idempotent=True, attempts=1, left=5.0)

ERRORS = frozenset(range(1, 17))


def highest(low: float, high: float) -> float:
    assert low == 0.0
    return high


def policy(retries: int = 1) -> RetryPolicy:
    return RetryPolicy(retries, uniform=highest)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_what_no_handler_has_seen_goes_on_where_another_node_may_help(code: int) -> None:
    again = policy().pause(replace(NOT_RUN, code=code))
    assert again == (0.0 if code in {8, 12, 14} else None)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_what_may_have_run_never_goes_again_unless_it_is_marked(code: int) -> None:
    assert policy(5).pause(replace(MAY_HAVE_RUN, code=code)) is None
    marked = policy(5).pause(replace(IDEMPOTENT, code=code))
    assert (marked is not None) == (code == 14)


def test_a_mark_makes_nothing_else_go_again() -> None:
    assert policy().pause(replace(NOT_RUN, code=13, idempotent=True)) is None


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_as_many_retries_as_allowed(retries: int) -> None:
    attempts = 1
    while policy(retries).pause(replace(NOT_RUN, attempts=attempts)) is not None:
        attempts += 1
    assert attempts == 1 + retries


def test_the_first_retry_of_what_has_not_run_waits_for_nothing_and_the_next_does() -> None:
    assert policy(3).pause(NOT_RUN) == 0.0
    assert policy(3).pause(replace(NOT_RUN, attempts=2)) == 0.1
    assert policy(3).pause(replace(NOT_RUN, attempts=3)) == 0.2


def test_pauses_double_up_to_a_second() -> None:
    pauses = [policy(5000).pause(replace(IDEMPOTENT, attempts=n)) for n in (1, 2, 3, 4, 5, 6, 7, 4000)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_pauses_are_drawn_from_the_whole_range() -> None:
    drawn = [RetryPolicy(1).pause(IDEMPOTENT) for _ in range(500)]
    assert all(pause is not None and 0 <= pause <= 0.05 for pause in drawn)
    assert min(filter(None, drawn)) < 0.005
    assert max(filter(None, drawn)) > 0.045


def test_no_attempt_is_made_that_the_deadline_would_cut_off() -> None:
    assert policy().pause(replace(IDEMPOTENT, left=0.05)) is None
    assert policy().pause(replace(IDEMPOTENT, left=0.051)) == 0.05
    assert policy().pause(replace(NOT_RUN, left=0.0)) is None
    assert policy().pause(replace(NOT_RUN, left=-1.0)) is None
    assert policy().pause(replace(NOT_RUN, left=0.001)) == 0.0
    assert policy().pause(replace(IDEMPOTENT, left=None)) == 0.05


@pytest.mark.parametrize("failure", [NOT_RUN, IDEMPOTENT])
def test_a_server_says_how_long_to_wait(failure: Failure) -> None:
    assert policy().pause(replace(failure, pushback="0")) == 0.0
    assert policy().pause(replace(failure, pushback="1234")) == 1.234
    assert policy().pause(replace(failure, pushback="5000")) is None, "that is when the deadline passes"
    assert policy().pause(replace(failure, pushback="2147483647", left=None)) == 2147483.647


@pytest.mark.parametrize(
    "pushback",
    ["-1", "-0", "", "soon", "1.5", " 1", "1\n", "007", "+1", "1e3", "٣", "2147483648", "9" * 5000],
)
def test_a_server_that_says_no_number_wants_no_retry(pushback: str) -> None:
    assert policy().pause(replace(NOT_RUN, pushback=pushback, left=None)) is None


def test_a_pushback_makes_nothing_retryable() -> None:
    assert policy().pause(replace(MAY_HAVE_RUN, pushback="0")) is None
    assert policy().pause(replace(NOT_RUN, code=5, pushback="0")) is None
    assert policy(1).pause(replace(NOT_RUN, attempts=2, pushback="0")) is None
