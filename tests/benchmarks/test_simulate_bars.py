"""The bars that concern `p2c`, ejection and retries, under virtual time: the same figures in each run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmarks are no part of the wheel.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def constant(rng: random.Random) -> Any:
    from benchmarks.simulate import servers

    return servers.constant(0.01)


def exponential(rng: random.Random) -> Any:
    from benchmarks.simulate import servers

    return servers.exponential(0.01, rng)


def lognormal(rng: random.Random) -> Any:
    from benchmarks.simulate import servers

    return servers.lognormal(0.01, 0.5, rng)


WORKS = [constant, exponential, lognormal]


def experiment(*arguments: Any, **options: Any) -> Any:
    from benchmarks.simulate import lab

    return lab.experiment(*arguments, **options)


def becomes(mode: str, moment: float, place: int = 0) -> Callable[..., None]:
    from benchmarks.simulate.servers import Mode

    def change(world: Any, servers: list[Any], client: Any) -> None:
        world.at(moment, setattr, servers[place], "mode", Mode[mode])

    return change


def p99(record: Any) -> float:
    from benchmarks.simulate.lab import percentile

    return percentile(record.latencies(), 99)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(("nodes", "rate"), [(10, 10), (10, 100), (10, 1000), (100, 10_000)])
def test_load_is_even_whatever_latencies_look_like(work: Any, nodes: int, rate: float) -> None:
    record = experiment("p2c", work, nodes=nodes, rate=rate, seconds=1000 * nodes / rate / (1 + (nodes > 10)))
    loads = record.loads()
    assert max(loads) * nodes / sum(loads) <= 1.10


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("rate", [100, 1000])
def test_a_node_ten_times_slower_costs_nobody_much(work: Any, rate: float) -> None:
    def slow(world: Any, servers: list[Any], client: Any) -> None:
        servers[0].slowness = lambda now: 10.0

    seconds = 10_000 / rate
    usual = experiment("p2c", work, rate=rate, seconds=seconds)
    record = experiment("p2c", work, slow, rate=rate, seconds=seconds)
    assert p99(record) <= 1.25 * p99(usual)
    assert record.share(0) <= 0.02


@pytest.mark.parametrize("patience", [None, 0.5], ids=["deadline", "cancelled by the caller"])
@pytest.mark.parametrize("rate", [10, 100, 1000])
def test_a_node_that_swallows_everything_gets_hardly_a_call_after_two_seconds(
    rate: float, patience: float | None
) -> None:
    record = experiment(
        "p2c", exponential, becomes("SWALLOWS", 5.0), rate=rate, seconds=35.0, patience=patience
    )
    assert record.share(0, 7.0, 35.0) < 0.01


@pytest.mark.parametrize(("rate", "slower"), [(10, 1), (100, 1), (1000, 1), (1000, 10)])
def test_a_node_that_fails_fast_attracts_no_load(rate: float, slower: int) -> None:
    def work(rng: random.Random) -> Any:
        draw = lognormal(rng)
        return lambda: draw() * slower

    record = experiment("p2c", work, becomes("FAILS", 2.0), rate=rate, seconds=20.0)
    assert record.share(0, 4.0, 20.0) < 0.01


def test_a_node_that_failed_for_long_is_called_again_within_a_minute() -> None:
    def change(world: Any, servers: list[Any], client: Any) -> None:
        becomes("FAILS", 2.0)(world, servers, client)
        becomes("SERVES", 30.0)(world, servers, client)

    for rate in (10, 100, 1000):
        record = experiment("p2c", exponential, change, rate=rate, seconds=80.0)
        assert record.share(0, 75.0, 80.0) > 0.05


@pytest.mark.parametrize("balancer", ["round_robin", "p2c"])
@pytest.mark.parametrize("retries", [1, 3])
def test_retries_add_little_to_a_full_outage(balancer: str, retries: int) -> None:
    def change(world: Any, servers: list[Any], client: Any) -> None:
        for place in range(len(servers)):
            becomes("SHEDS", 5.0, place)(world, servers, client)

    record = experiment(balancer, exponential, change, rate=200, seconds=35.0, ejection=True, retries=retries)
    calls = sum(5.0 <= begun < 35.0 for begun in record.begun)
    assert calls <= sum(record.loads(5.0, 35.0)) <= 1.1 * calls


def test_with_most_nodes_refusing_calls_still_succeed() -> None:
    def change(world: Any, servers: list[Any], client: Any) -> None:
        for place in range(6):
            becomes("SHEDS", 5.0, place)(world, servers, client)

    record = experiment("p2c", exponential, change, rate=200, seconds=35.0, ejection=True)
    assert record.failed(7.0, 35.0) <= 0.03


def test_pauses_hurt_less_than_with_round_robin() -> None:
    from benchmarks.simulate.lab import percentile
    from benchmarks.simulate.servers import pauses

    def found(balancer: str) -> float:
        record = experiment(
            balancer,
            exponential,
            rate=2000,
            seconds=10.0,
            slots=4,
            stands=lambda rng: pauses(10.0, 0.2, 20.0, rng),
        )
        return percentile(record.latencies(), 99)

    assert found("p2c") < found("round_robin") / 2


def test_each_attempt_is_on_another_node_and_none_is_left_in_flight() -> None:
    record = experiment(
        "p2c", exponential, becomes("SHEDS", 0.0), nodes=2, rate=100, seconds=10.0, budget=False
    )
    assert set(record.codes) == {0}
    assert len(record.picked) == len(record.codes) + record.loads()[0]
