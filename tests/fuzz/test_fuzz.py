"""No stranger's bytes end, block or flood anything: every parser against inputs that nobody wrote by hand.

In `make test-all` each parser gets the same inputs each time, and those of `findings.py`. `make fuzz`
goes on for FUZZ_MINUTES with new ones.
"""

from __future__ import annotations

import contextlib
import os
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.fuzz.findings import FINDINGS
from tests.fuzz.parser import Parser
from tests.fuzz.parsers import PARSERS
from tests.heap import frozen_heap
from tests.machine import least_cpu_now

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
# Examples for each parser in `make test-all`.
FEW = 100
# How long one input may hold the event loop, in seconds of this thread.
HELD = 0.020
# Characters of an error's message: some list what there is, and twenty names may be long.
LONGEST_MESSAGE = 2000
# Bytes that an input of up to 256 KB may take while it is read: what JSON makes of "{}," takes 40 times
# its size.
PEAK = 32 << 20
# The largest input that the bars are about.
LARGEST = 256 << 10

QUICK = settings(
    max_examples=FEW,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
LONG = settings(
    QUICK,
    max_examples=300,
    derandomize=False,
    database=DirectoryBasedExampleDatabase(".build/fuzz"),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


@pytest.fixture(scope="session", autouse=True)
def _begun() -> None:
    """Hypothesis has made its source of chance: in a frozen heap it finds nobody who holds it, and warns."""
    find(st.none(), lambda _: True, settings=settings(QUICK, database=None))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What others left behind, the fuzzer above all, is not looked through while a parser works."""
    with frozen_heap():
        yield


def size_of(found: Any) -> int:
    """About how many bytes a stranger has to send for this."""
    return len(found) if isinstance(found, str | bytes) else len(repr(found))


def held(parser: Parser, found: Any) -> float:
    """Seconds of this thread that one input takes; raises what the parser does not document."""
    message = ""
    before = time.thread_time()
    try:
        parser.check(found)
    except parser.raises as exc:
        message = str(exc)
    seconds = time.thread_time() - before
    # It goes into a log line or to a person.
    assert len(message) < LONGEST_MESSAGE, f"a message of {len(message)} characters"
    return seconds


def run(parser: Parser, found: Any) -> None:
    """Give a parser an input; only one that takes long is tried again, as the machine may be busy."""
    seconds = held(parser, found)
    if seconds > HELD and not parser.aside and size_of(found) <= LARGEST:
        seconds = least_cpu_now(lambda: held(parser, found), HELD)
        assert seconds <= HELD, f"{size_of(found)} bytes hold the event loop for {seconds * 1000:.0f} ms"


@pytest.mark.once
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_nothing_that_a_stranger_sends_trips_a_parser(parser: Parser) -> None:
    def fuzz(found: Any) -> None:
        run(parser, found)

    if not MINUTES:
        QUICK(given(parser.inputs)(fuzz))()
        return
    until = time.monotonic() + MINUTES * 60 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) / len(
        PARSERS
    )
    turn = 0
    while time.monotonic() < until:
        turn += 1
        LONG(seed(time.time_ns())(given(parser.inputs)(lambda found: fuzz(found))))()


@pytest.mark.parametrize(
    ("parser", "found"),
    [
        pytest.param(parser, found, id=f"{parser.name}: {what}")
        for parser in PARSERS
        for what, found in FINDINGS.get(parser.name, ())
    ],
)
def test_what_was_found_stays_mended(parser: Parser, found: Any) -> None:
    run(parser, found)


@pytest.mark.once
@pytest.mark.parametrize("parser", [one for one in PARSERS if one.name in FINDINGS], ids=lambda one: one.name)
def test_an_input_takes_no_more_than_so_much_memory(parser: Parser) -> None:
    for what, found in FINDINGS[parser.name]:
        tracemalloc.start()
        try:
            with contextlib.suppress(*parser.raises):
                parser.check(found)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < PEAK, f"{what}: {peak >> 20} MB"


def test_every_finding_is_of_a_parser() -> None:
    assert set(FINDINGS) <= {parser.name for parser in PARSERS}
