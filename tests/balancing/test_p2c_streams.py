"""How `p2c` spreads streams: by how many each node has, whatever they take and however long they stay."""

from __future__ import annotations

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Outcome
from tests.balancing.p2c_bench import OK, Bench

DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE = OUTCOMES[4], OUTCOMES[13], OUTCOMES[14]


@pytest.mark.parametrize("first", [0.01, 0.5, None])
@pytest.mark.parametrize("seed", range(5))
def test_streams_over_a_known_and_an_unknown_node_are_even(first: float | None, seed: int) -> None:
    bench = Bench(1, 2, seed=seed)
    bench.call(1)
    found = bench.open(40, every=0.1, first=first)
    assert max(found.values()) <= 1.1 * 20, found


@pytest.mark.parametrize("first", [0.01, None])
@pytest.mark.parametrize("seed", range(5))
def test_a_new_node_catches_up(first: float | None, seed: int) -> None:
    bench = Bench(1, 2, 3, seed=seed)
    bench.use(1, 2)
    for _ in range(50):
        bench.call(1)
        bench.call(2)
    found = bench.open(20, every=0.05, first=0.01)
    bench.use(1, 2, 3)
    found += bench.open(40, every=0.1, first=first)
    assert max(found.values()) <= 1.1 * 20, found


@pytest.mark.parametrize("seed", range(5))
def test_streams_that_all_begin_at_once_are_even_where_no_node_has_had_any(seed: int) -> None:
    bench = Bench(1, 2, seed=seed)
    bench.call(1)
    assert bench.open(40) == {1: 20, 2: 20}


def test_beside_nodes_that_had_streams_a_new_one_gets_a_quarter_until_one_is_answered() -> None:
    bench = Bench(1, 2)
    bench.use(1)
    bench.open(8, every=0.1, first=0.01)
    bench.use(1, 2)
    assert bench.open(32) == {1: 24, 2: 8}
    next(stream for stream in bench.streams if stream.node.id == "n00002").answered()
    assert bench.open(24) == {2: 24}


def test_where_servers_take_five_streams_each_no_stream_waits_while_there_is_room() -> None:
    bench = Bench(1, 2)
    bench.call(1)
    assert bench.open(10, every=0.02, first=0.01) == {1: 5, 2: 5}


def test_streams_take_no_calls_away_from_their_node() -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    bench.use(1, 2)
    bench.open(60, every=0.01, first=0.005)
    bench.use(1, 2, 3)
    counts = bench.counts(3000)
    assert max(counts.values()) <= 1.1 * 1000, counts


@pytest.mark.parametrize("end", [OK, CANCELLED, OUTCOMES[1], OUTCOMES[5], DEADLINE_EXCEEDED])
def test_a_stream_that_lasted_an_hour_makes_its_node_no_slower(end: Outcome) -> None:
    bench = Bench(1, 2)
    bench.settle()
    bench.open(100, every=0.1, first=0.01)
    bench.time += 3600
    for stream in bench.streams:
        if stream.node.id == "n00001":
            stream.done(end)
            bench.call(2)  # somebody else answers meanwhile
    counts = bench.counts(1000)
    assert max(counts.values()) <= 1.1 * 500, counts


def test_a_short_stream_makes_its_node_no_faster() -> None:
    bench = Bench(1, 2)
    for _ in range(100):
        bench.call(1, 0.1)
        bench.call(2, 0.1)
        stream = bench.balancer.pick(bench.stream_of(1))
        stream.done(OK)
    counts = bench.counts(1000)
    assert max(counts.values()) <= 1.1 * 500, counts


@pytest.mark.parametrize("failure", [UNAVAILABLE, INTERNAL, DEADLINE_EXCEEDED])
@pytest.mark.parametrize("only_streams", [True, False])
def test_a_node_on_which_streams_fail_at_once_attracts_none(failure: Outcome, only_streams: bool) -> None:
    bench = Bench(1, 2, 3)
    if not only_streams:
        bench.settle()
    failed = 0
    for _ in range(200):
        (number,) = bench.open(1)
        stream = bench.streams.pop()
        bench.time += 0.01
        if number == 3:
            failed += 1
            stream.done(failure)
        else:
            stream.answered()
            bench.streams.append(stream)
    assert failed <= 20


def test_a_node_on_which_streams_failed_gets_some_again() -> None:
    bench = Bench(1, 2)
    bench.open(20, every=0.1, first=0.05)
    for stream in [stream for stream in bench.streams if stream.node.id == "n00002"]:
        stream.done(UNAVAILABLE)
    bench.time += 60
    assert bench.open(20, every=0.5, first=0.05)[2] >= 10


def test_a_node_that_is_connected_again_is_tried_with_a_few_streams_first() -> None:
    bench = Bench(1, 2)
    bench.settle()
    bench.open(20, every=0.1, first=0.05)
    for stream in [stream for stream in bench.streams if stream.node.id == "n00002"]:
        stream.done(UNAVAILABLE)
    bench.use(1)
    bench.use(1, 2)
    assert bench.open(10) == {1: 6, 2: 4}  # the other one had ten before
