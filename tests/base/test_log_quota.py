"""Lines that strangers cause: so many a minute."""

from __future__ import annotations

import logging

import pytest

from pymicro.base.log_quota import LogQuota
from tests.balancing.support import Clock

log = logging.getLogger("pymicro.test.quota")


def test_the_last_line_of_a_minute_says_that_there_are_more(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    quota = LogQuota(log, "more things are odd", clock=clock)
    said = [quota.say(logging.WARNING, "odd: %d", number) for number in range(1000)]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        *(f"odd: {number}" for number in range(19)),
        "more things are odd, and not named for a while",
    ]
    assert said == [True] * 19 + [False] * 981
    clock.now += 60
    assert quota.say(logging.WARNING, "odd again")
    assert caplog.messages[-1] == "odd again"


def test_long_arguments_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    LogQuota(log, "").say(logging.WARNING, "%s %s", "x" * 100_000, 7)
    assert len(caplog.messages[0]) == 1002


def test_what_nobody_reads_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=log.name)
    quota = LogQuota(log, "more")
    for _ in range(100):
        assert not quota.say(logging.INFO, "news")
    assert quota.say(logging.WARNING, "odd")
