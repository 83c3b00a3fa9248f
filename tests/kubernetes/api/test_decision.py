"""What a reflector does after each attempt: the table of `decide`, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pymicro.kubernetes.api.decision import AttemptOutcome, Decision, Standing, decide
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.timing import ReflectorTiming

TIMING = ReflectorTiming()

REFUSED = KubeError("no connection")
EXPIRED = KubeError("too old", status=410)
BACKWARDS = KubeError("went back", kind="backwards")
MALFORMED = KubeError("no JSON", kind="malformed")
CUT = KubeError("cut", kind="cut")
RESET = KubeError("reset")
IDLE = KubeError("silent", kind="idle")
ODD = KubeError("RuntimeError(…)", kind="unexpected")
BAD_REQUEST = KubeError("no", status=400)
SERVER = KubeError("broken", status=500)
FORBIDDEN = KubeError("may not", status=403)
THROTTLED = KubeError("later", status=429)
UNAUTHORIZED = KubeError("who?", status=401)
NO_GATEWAY = KubeError("bad gateway", status=502)
CONFIG = KubeError("no cluster", kind="config")
CREDENTIALS = KubeError("no token", kind="credentials")
SLOW = KubeError("no answer", kind="timeout")
PROXY = KubeError("the proxy answered 407", kind="proxy")
TLS = KubeError("a certificate of another authority", kind="tls")

FRESH = Standing()
SECOND = Standing(doubts=1, failures=1)


def in_list(error: KubeError) -> AttemptOutcome:
    return AttemptOutcome(stage="list", error=error)


def asked(error: KubeError, *, listed: bool = False) -> AttemptOutcome:
    return AttemptOutcome(stage="asked", error=error, listed=listed)


def opened(
    error: KubeError | None = None, lived: float = 0.0, *, events: bool = False, listed: bool = False
) -> AttemptOutcome:
    return AttemptOutcome(stage="open", error=error, lived=lived, events=events, listed=listed)


def after(outcome: AttemptOutcome, standing: Standing = FRESH) -> Decision:
    return decide(outcome, standing, TIMING)


def course(*outcomes: AttemptOutcome) -> list[Decision]:
    """The decisions about attempts one after the other."""
    decisions: list[Decision] = []
    standing = FRESH
    for outcome in outcomes:
        decisions.append(after(outcome, standing))
        standing = decisions[-1].standing
    return decisions


AWAY = (REFUSED, SLOW, PROXY, TLS)
KEPT_OUT = (FORBIDDEN, THROTTLED, UNAUTHORIZED, CONFIG, CREDENTIALS)

# Row, outcome, standing before; then: is it a failure, is it told, is the version still good.
ROWS = [
    *((1, asked(error), FRESH, (True, True, True)) for error in (*KEPT_OUT, *AWAY, NO_GATEWAY)),
    *((1, asked(error), SECOND, (True, True, True)) for error in (*KEPT_OUT, *AWAY, NO_GATEWAY)),
    *((1, in_list(error), FRESH, (True, True, True)) for error in (*KEPT_OUT, *AWAY, NO_GATEWAY)),
    *((1, opened(error, 50.0, events=True), FRESH, (True, True, True)) for error in KEPT_OUT),
    *((2, asked(error), FRESH, (True, False, False)) for error in (EXPIRED, BACKWARDS, MALFORMED)),
    *((2, opened(error), FRESH, (True, False, False)) for error in (EXPIRED, BACKWARDS, MALFORMED)),
    *((2, opened(error), SECOND, (True, True, False)) for error in (EXPIRED, BACKWARDS, MALFORMED)),
    (2, opened(EXPIRED, listed=True), SECOND, (True, False, False)),
    (2, opened(EXPIRED, 50.0, events=True), SECOND, (True, False, False)),
    (2, in_list(EXPIRED), FRESH, (True, False, False)),
    (2, in_list(EXPIRED), SECOND, (True, True, False)),
    (2, in_list(MALFORMED), FRESH, (True, True, False)),
    (3, opened(IDLE, 70.0), FRESH, (False, False, True)),
    (3, opened(IDLE, 70.0), SECOND, (False, False, True)),
    *((4, opened(error, 35.0), FRESH, (False, False, True)) for error in (None, CUT, RESET, SLOW)),
    *((4, opened(error, 35.0), SECOND, (False, False, True)) for error in (None, CUT, RESET, SLOW)),
    *((4, opened(error, 0.2, events=True), FRESH, (False, False, True)) for error in (None, CUT, RESET)),
    *((5, asked(error), FRESH, (True, False, True)) for error in (BAD_REQUEST, SERVER, ODD)),
    *((5, asked(error), SECOND, (True, True, False)) for error in (BAD_REQUEST, SERVER, ODD)),
    *((5, opened(error), FRESH, (True, False, True)) for error in (None, CUT, RESET, SERVER, ODD)),
    *((5, opened(error), SECOND, (True, True, False)) for error in (None, CUT, RESET, SERVER, ODD)),
    # Refused by an ERROR event after a while and without an event is refused all the same.
    (5, opened(SERVER, 5.0), SECOND, (True, True, False)),
    (5, opened(SERVER, 5.0, events=True), SECOND, (True, False, True)),
    (5, opened(NO_GATEWAY), SECOND, (True, True, False)),
    (5, asked(BAD_REQUEST, listed=True), SECOND, (True, False, False)),
    (5, in_list(SERVER), FRESH, (True, True, True)),
    (5, in_list(ODD), FRESH, (True, True, True)),
]


@pytest.mark.parametrize(("row", "outcome", "standing", "expected"), ROWS)
def test_the_table(
    row: int, outcome: AttemptOutcome, standing: Standing, expected: tuple[bool, bool, bool]
) -> None:
    decision = after(outcome, standing)
    assert (decision.failed, decision.tell, decision.good) == expected
    assert f"| {row}. " in (decide.__doc__ or "")
    if decision.failed:
        assert decision.jitter == 0.8 * 2**standing.failures
        assert decision.standing.failures == standing.failures + 1
    else:
        assert decision.standing == replace(
            standing, doubts=0, healthy=outcome.lived, silent=decision.standing.silent
        )


def test_every_row_of_the_table_is_tried() -> None:
    assert {row for row, *_ in ROWS} == {1, 2, 3, 4, 5}
    assert "| 6. " not in (decide.__doc__ or "")


def test_pauses_grow_to_half_a_minute() -> None:
    ceilings = [decision.jitter for decision in course(*[asked(REFUSED)] * 40)]
    assert ceilings[:8] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    assert ceilings[-1] == 30.0


def test_two_minutes_without_a_failure_begin_the_pauses_anew_and_less_does_not() -> None:
    fails = [asked(REFUSED)] * 4
    assert course(*fails, opened(None, 119.0), asked(REFUSED))[-1].jitter == pytest.approx(12.8)
    # Two watches are as good as one, and it does not matter who ended them.
    assert course(*fails, opened(CUT, 60.0), opened(IDLE, 60.0), asked(REFUSED))[-1].jitter == 0.8
    # The time before the last failure does not count a second time.
    watches = opened(None, 60.0), asked(REFUSED), opened(None, 60.0), asked(REFUSED)
    assert course(*fails, *watches)[-1].jitter == pytest.approx(25.6)


def test_what_the_server_asks_for_comes_with_chance_on_top_and_within_reason() -> None:
    later = after(asked(KubeError("later", status=429, retry_after=5.0)))
    assert (later.pause, later.jitter) == (5.0, 0.8)
    assert after(asked(KubeError("later", status=429, retry_after=86400.0))).pause == 120.0


@pytest.mark.parametrize("error", [None, CUT, RESET])
def test_a_load_balancer_that_cuts_watches_costs_no_more_than_a_moment_each(error: KubeError | None) -> None:
    for decision in course(*[opened(error, 35.0)] * 100):
        assert decision.pause + decision.jitter <= 1.0
        assert not decision.tell


def test_a_watch_that_soon_ends_but_brought_something_waits_out_its_moment() -> None:
    decision = after(opened(None, 0.25, events=True))
    assert decision.pause == pytest.approx(0.75)


def test_a_silent_watch_is_replaced_at_once() -> None:
    decision = after(opened(IDLE, 70.0))
    assert (decision.pause, decision.jitter) == (0.0, 0.0)


def test_watches_that_bring_nothing_for_long_put_the_version_in_doubt() -> None:
    assert after(opened(IDLE, 70.0)).check
    # One that brought something, or that goes on from a list, is a proof.
    assert not after(opened(IDLE, 90.0, events=True)).check
    assert not after(opened(IDLE, 70.0, listed=True)).check
    # A load balancer does not let any watch get that old: several are silent together.
    cuts = course(*[opened(CUT, 35.0)] * 4)
    assert [decision.check for decision in cuts] == [False, True, False, True]
    proved = course(opened(CUT, 35.0), opened(CUT, 35.0, events=True), opened(CUT, 35.0))
    assert not any(decision.check for decision in proved)


def test_a_watch_refused_for_ever_is_replaced_by_lists_and_told_once() -> None:
    first, second, *others = course(
        asked(BAD_REQUEST), asked(BAD_REQUEST), *[asked(BAD_REQUEST, listed=True)] * 10
    )
    assert (first.good, first.tell) == (True, False)
    assert (second.good, second.tell) == (False, True)
    assert not any(decision.good or decision.tell for decision in others)
    # A watch that works ends it.
    assert after(opened(None, 300.0), others[-1].standing).standing.doubts == 0
