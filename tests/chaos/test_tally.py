"""The account of the chaos tests can say no."""

from __future__ import annotations

import pytest

from tests.chaos.fleet import Execution
from tests.chaos.proxy import Frames
from tests.chaos.tally import Call, Tally


def call(number: int, code: str = "OK", *, method: str = "Plain", node: str = "a:1") -> Call:
    return Call(
        f"c{number}", method, 100.0 + number, 100.5 + number, code, node, "" if code == "OK" else "why"
    )


def ran(
    number: int, *, node: str = "n1", method: str = "Plain", attempt: int = 0, event: str = "begin"
) -> Execution:
    return Execution(100.1 + number, event, f"c{number}", method, attempt, node, 7)


def test_calls_that_were_answered_and_ran_once_are_in_order() -> None:
    tally = Tally([call(1), call(2)], [ran(1), ran(2), ran(1, event="end"), ran(9)])
    tally.check()
    assert tally.shares() == {"n1": 2}
    assert tally.retried() == 0
    assert tally.describe().startswith("2 calls, 2 answered, failed: none; 2 executions")


@pytest.mark.parametrize(
    ("calls", "journal", "said"),
    [
        ([], [], "nothing was called"),
        (
            [call(1), call(2, "UNAVAILABLE")],
            [ran(1), ran(2)],
            r"1 calls failed[^!]*1 × UNAVAILABLE on a:1: why",
        ),
        ([call(1, "")], [ran(1)], "1 calls never ended"),
        ([call(1), call(2)], [ran(1)], "1 calls were answered and ran nowhere"),
        (
            [call(1)],
            [ran(1), ran(1, node="n2", attempt=1)],
            r"more than once[^!]*n1 [^!]*n2 \(pid 7\) attempt 1",
        ),
        ([call(1, "INTERNAL")], [ran(1), ran(1)], "1 unmarked calls ran more than once"),
    ],
)
def test_what_is_out_of_order_is_said(calls: list[Call], journal: list[Execution], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        Tally(calls, journal).check()


def test_an_answer_that_is_not_whole_is_none() -> None:
    torn = call(1)
    torn.complete = False
    with pytest.raises(AssertionError, match="1 answers are not whole"):
        Tally([torn], [ran(1)]).check()


def test_marked_calls_may_run_twice_and_are_counted() -> None:
    journal = [ran(1, method="Marked"), ran(1, method="Marked", node="n2", attempt=1)]
    tally = Tally([call(1, method="Marked")], journal)
    tally.check()
    assert tally.retried() == 1
    assert "1 calls ran more than once" in tally.describe()


def test_failures_have_to_be_where_they_may_be() -> None:
    tally = Tally([call(1), call(2, "UNAVAILABLE"), call(3, "UNAVAILABLE", node="b:2")])
    tally.failed_only_on({"a:1", "b:2"})
    with pytest.raises(AssertionError, match="1 calls failed elsewhere than on a:1"):
        tally.failed_only_on({"a:1"})
    with pytest.raises(
        AssertionError, match="2 calls failed elsewhere than on a:1, b:2, or not with INTERNAL"
    ):
        tally.failed_only_on(["a:1", "b:2"], "INTERNAL")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_requests_are_counted_however_their_bytes_arrive(size: int) -> None:
    def frame(kind: int, length: int) -> bytes:
        return length.to_bytes(3) + bytes([kind, 0, 0, 0, 0, 1]) + b"\1" * length

    # SETTINGS, then twice HEADERS and DATA, once with an empty one between.
    sent = b"x" * 24 + b"".join(
        frame(*each) for each in [(4, 18), (1, 50), (0, 20), (0, 0), (1, 5), (0, 300)]
    )
    frames = Frames()
    assert sum(frames.feed(sent[at : at + size]) for at in range(0, len(sent), size)) == 2
