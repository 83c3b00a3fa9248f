"""How `round_robin` and `random` choose, and what that costs."""

from __future__ import annotations

import random
import timeit
from collections import Counter
from collections.abc import Callable

import pytest

from pymicro.balancing.balancer import OUTCOMES, CallInfo
from pymicro.balancing.balancers.random import Random
from pymicro.balancing.balancers.round_robin import RoundRobin
from pymicro.base.errors import NoNode
from pymicro.nodes.node import Node, NodeSet

CALL = CallInfo("/a.B/C")


def nodes(*numbers: int) -> NodeSet:
    return NodeSet.of(Node(id=f"n{number:05}", address=f"10.0.0.1:{number + 1}") for number in numbers)


def picked(balancer: RoundRobin | Random, count: int, tried: frozenset[str] = frozenset()) -> list[str]:
    return [balancer.pick(CallInfo("/a.B/C", tried)).node.id for _ in range(count)]


def test_round_robin_gives_each_node_its_turn_exactly() -> None:
    balancer = RoundRobin()
    balancer.update(nodes(*range(7)), nodes(*range(7)))
    once = picked(balancer, 7)
    assert len(set(once)) == 7
    assert picked(balancer, 70) == once * 10


def test_round_robin_starts_anywhere() -> None:
    starts = set()
    for seed in range(200):
        balancer = RoundRobin(rng=random.Random(seed))
        balancer.update(nodes(*range(5)), nodes(*range(5)))
        starts |= set(picked(balancer, 1))
    assert len(starts) == 5


def test_round_robin_is_repeatable_with_a_seed() -> None:
    def run() -> list[str]:
        balancer = RoundRobin(rng=random.Random(7))
        balancer.update(nodes(*range(50)), nodes(*range(50)))
        return picked(balancer, 100)

    assert run() == run()


def test_round_robin_goes_on_where_it_was_after_an_update() -> None:
    balancer = RoundRobin(rng=random.Random(1))
    balancer.update(nodes(*range(6)), nodes(*range(6)))
    order = picked(balancer, 6)
    picked(balancer, 2)
    left = nodes(*(number for number in range(6) if f"n{number:05}" != order[3]))
    balancer.update(left, left)
    # Two had their turn, one of the others left.
    assert picked(balancer, 5) == [order[2], order[4], order[5], order[0], order[1]]


def test_round_robin_lets_newcomers_wait_for_those_already_in_line() -> None:
    balancer = RoundRobin()
    balancer.update(nodes(5, 6), nodes(5, 6))
    (had_its_turn,) = picked(balancer, 1)
    balancer.update(nodes(1, 5, 6, 9), nodes(1, 5, 6, 9))
    order = picked(balancer, 4)
    assert order[1] == had_its_turn
    assert set(order[2:]) == {"n00001", "n00009"}


def test_round_robin_does_not_pin_nodes_when_every_pick_is_followed_by_an_update() -> None:
    balancer = RoundRobin()
    counts: Counter[str] = Counter()
    every = nodes(*range(100))
    for _ in range(1000):
        balancer.update(every, every)
        counts.update(picked(balancer, 1))
    assert set(counts.values()) == {10}


def test_round_robin_passes_tried_nodes_over_and_then_goes_on() -> None:
    balancer = RoundRobin(rng=random.Random(1))
    every = nodes(*range(4))
    balancer.update(every, every)
    order = picked(balancer, 4)
    key = {node.id: node.key for node in every}
    assert picked(balancer, 1, frozenset({key[order[0]], key[order[1]]})) == [order[2]]
    assert picked(balancer, 1) == [order[3]]


def test_random_is_repeatable_with_a_seed_and_different_without() -> None:
    def run(rng: random.Random | None) -> list[str]:
        balancer = Random(rng=rng)
        balancer.update(nodes(*range(1000)), nodes(*range(1000)))
        return picked(balancer, 20)

    assert run(random.Random(3)) == run(random.Random(3))
    assert run(None) != run(None)


def test_random_gives_untried_nodes_equal_chances() -> None:
    balancer = Random(rng=random.Random(3))
    every = nodes(*range(20))
    balancer.update(every, every)
    tried = frozenset(node.key for node in every.nodes[:18])
    counts = Counter(picked(balancer, 2000, tried))
    assert set(counts) == {"n00018", "n00019"}
    assert min(counts.values()) > 850


@pytest.mark.parametrize("kind", [RoundRobin, Random])
def test_nothing_left_says_what_was_asked(kind: type[RoundRobin] | type[Random]) -> None:
    balancer = kind()
    with pytest.raises(NoNode, match="no node is usable"):
        balancer.pick(CALL)
    balancer.update(nodes(1, 2), nodes(1, 2))
    tried = frozenset(node.key for node in nodes(1, 2))
    with pytest.raises(NoNode, match=r"/a\.B/C was tried on each of the 2"):
        balancer.pick(CallInfo("/a.B/C", tried))


# The bar is 1.5 us; measured here: 0.15 and 0.25. A test that shares its
# machine with others needs room, and what is looked for is a cost that grows.
CEILING = 5e-6


@pytest.mark.parametrize("count", [10, 10_000])
@pytest.mark.parametrize("kind", [RoundRobin, Random])
def test_a_pick_costs_the_same_however_many_nodes_there_are(
    kind: Callable[[], RoundRobin | Random], count: int
) -> None:
    balancer = kind()
    balancer.update(nodes(*range(count)), nodes(*range(count)))
    done = OUTCOMES[0]

    def once() -> None:
        balancer.pick(CALL).done(done)

    assert min(timeit.repeat(once, number=2000, repeat=5)) / 2000 < CEILING


@pytest.mark.parametrize("kind", [RoundRobin, Random])
def test_an_update_of_ten_thousand_nodes_is_linear(kind: Callable[[], RoundRobin | Random]) -> None:
    old, new = nodes(*range(10_000)), nodes(*range(5_000, 15_000))
    balancer = kind()
    balancer.update(old, old)

    def there_and_back() -> None:
        balancer.update(new, new)
        balancer.update(old, old)

    # 3 ms here; what looks each node up in a list takes seconds.
    cost = min(timeit.repeat(there_and_back, number=1, repeat=3))
    assert cost < 0.5
