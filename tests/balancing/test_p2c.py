"""How `p2c` chooses, by a clock that the tests move."""

from __future__ import annotations

import random
import time
import timeit
from collections import Counter
from typing import Any

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Balancer, CallInfo, Outcome
from pymicro.balancing.balancers.p2c import P2C
from pymicro.base.errors import NoNode
from pymicro.nodes.node import EMPTY
from pymicro.testing.balancer import BalancerContract
from tests.balancing.p2c_bench import Bench, nodes

CALL = CallInfo("/a.B/C")
OK, NOT_FOUND, INTERNAL, UNAVAILABLE = OUTCOMES[0], OUTCOMES[5], OUTCOMES[13], OUTCOMES[14]
FAILURES = (2, 4, 8, 12, 13, 14, 15)

# The numbers of the module, as its docstrings give them.
CLEAR, MEMORY, WORST = 2, 3.0, 16


class TestP2C(BalancerContract):
    evenness = 1.10  # the bar

    def make(self) -> Balancer:
        return P2C()


def test_the_node_with_fewer_calls_in_flight_is_picked() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(3):
        bench.begin(1)
    assert [bench.pick().node.id for _ in range(3)] == ["n00002"] * 3


def test_of_equals_the_one_picked_longer_ago_is_picked() -> None:
    bench = Bench(1, 2)
    bench.settle()
    order = []
    for _ in range(10):
        pick = bench.pick()
        order.append(pick.node.id)
        bench.time += 0.01
        pick.done(OK)
    assert order == ["n00001", "n00002"] * 5


def test_every_pair_of_nodes_is_drawn_as_often_as_any_other() -> None:
    bench = Bench(*range(5))
    bench.settle()
    # The more calls in flight, the worse: node 0 wins each pair it is in, node 4 none.
    for number in range(5):
        for _ in range(number * 10):
            bench.begin(number)
    counts = bench.counts(10_000)
    assert {number: round(counts[number] / 1000) for number in range(5)} == {0: 4, 1: 3, 2: 2, 3: 1, 4: 0}
    assert counts[4] == 0


def test_a_node_that_is_a_little_slower_gets_as_many_calls() -> None:
    bench = Bench(1, 2)
    for _ in range(100):
        bench.call(1, 0.010)
        bench.call(2, 0.015)
    counts = bench.counts(100)
    assert counts[1] == counts[2] == 50


def test_a_node_that_is_clearly_slower_is_picked_only_for_what_is_in_flight_elsewhere() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(400):
        bench.call(2, 0.1)
        for _ in range(4):
            bench.call(1, 0.01)
    assert bench.counts(100) == {1: 100}
    # It takes about eight times as long: the ninth or so call in flight goes there.
    picked = [bench.pick().node.id for _ in range(12)]
    assert picked[:4] == ["n00001"] * 4
    assert "n00002" in picked


def test_a_slower_node_is_tried_again_after_some_seconds_for_each_time_it_is_slower() -> None:
    bench = Bench(1, 2)
    bench.settle()
    bench.time += 1000  # nothing is known any more of node 2, so what it does now counts in full
    bench.call(1)
    bench.call(2, 0.1)
    wait = MEMORY * (0.101 / 0.011 - CLEAR)  # a millisecond of each is taken to be our own
    bench.time += wait * 0.85
    bench.call(1)
    assert bench.counts(20) == {1: 20}
    bench.time += wait * 0.25
    bench.call(1)
    assert 2 in bench.counts(20)


def test_a_node_tried_again_gets_one_call_until_it_has_answered() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    bench.time += MEMORY * (WORST - CLEAR) + 1
    bench.call(1)
    held = [bench.pick().node.id for _ in range(4)]
    assert held.count("n00002") == 1


def test_a_node_tried_again_and_still_slow_is_left_alone_at_once() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    bench.time += MEMORY * (WORST - CLEAR) + 1
    bench.call(1)
    bench.call(2, 0.001, INTERNAL)
    assert bench.counts(100) == {1: 100}
    bench.time += MEMORY * (WORST - CLEAR) / 2
    bench.call(1)
    assert bench.counts(100) == {1: 100}


@pytest.mark.parametrize("code", FAILURES)
def test_a_node_that_fails_fast_attracts_no_load(code: int) -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    # It answers ten times as fast, but with a failure.
    shares: Counter[int] = Counter()
    for _ in range(1000):
        pick = bench.pick()
        number = int(pick.node.id[1:])
        shares[number] += 1
        bench.time += 0.001 if number == 2 else 0.01
        pick.done(OUTCOMES[code] if number == 2 else OK)
    # Ten seconds: a few calls until it is known, and one now and then.
    assert shares[2] <= 10


def test_a_node_that_fails_fast_is_left_alone_however_many_calls_are_in_flight_elsewhere() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    assert [bench.pick().node.id for _ in range(1000)] == ["n00001"] * 1000


def test_where_most_nodes_fail_the_others_are_found_nearly_always() -> None:
    bench = Bench(*range(10))
    bench.settle()
    for _ in range(100):
        for number in range(6):
            bench.call(number, 0.001, INTERNAL)
    counts = bench.counts(1000)
    # Of two nodes both are failing in a third of all draws, of four in a seventh.
    assert sum(counts[number] for number in range(6)) <= 160


@pytest.mark.parametrize("code", FAILURES)
def test_a_node_that_failed_is_tried_again_in_bounded_time(code: int) -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(1000):
        bench.call(2, 0.001, OUTCOMES[code])
    bench.call(1)
    assert bench.counts(50) == {1: 50}
    bench.time += MEMORY * (WORST - CLEAR)
    bench.call(1)
    bench.call(2)
    counts = bench.counts(50)
    assert counts[1] == counts[2]


def test_one_failure_of_a_busy_node_is_forgiven() -> None:
    bench = Bench(1, 2)
    bench.settle()
    bench.call(2, 0.001, UNAVAILABLE)
    counts = bench.counts(50)
    assert counts[1] == counts[2]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
def test_failures_that_are_no_nodes_fault_leave_the_load_even(share: float) -> None:
    bench, rng = Bench(*range(10)), random.Random(2)
    counts: Counter[str] = Counter()
    for _ in range(10_000):
        pick = bench.pick()
        counts[pick.node.id] += 1
        bench.time += 0.01
        pick.done(INTERNAL if rng.random() < share else OK)
    assert max(counts.values()) <= 1100


def test_quick_errors_that_are_answers_make_no_node_a_fast_one() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(1000):
        bench.call(2, 0.0001, NOT_FOUND)
        bench.call(1)
    counts = bench.counts(100)
    assert counts[1] == counts[2]


def test_slow_errors_that_are_answers_make_a_node_a_slow_one() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(200):
        bench.call(2, 0.1, NOT_FOUND)
        for _ in range(10):
            bench.call(1)
    assert bench.counts(100) == {1: 100}


@pytest.mark.parametrize("outcome", [*OUTCOMES, CANCELLED], ids=str)
def test_a_call_that_ended_is_in_flight_no_more_however_it_ended(outcome: Outcome) -> None:
    bench = Bench(1, 2)
    bench.settle()
    for pick in [bench.begin(2) for _ in range(30)]:
        pick.done(outcome)
    bench.settle()
    bench.begin(1)
    # One in flight against none.
    assert bench.pick().node.id == "n00002"


def test_a_call_cancelled_at_once_says_nothing() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(1000):
        bench.call(2, 0.0, CANCELLED)
        bench.call(1)
    counts = bench.counts(100)
    assert counts[1] == counts[2]


def test_a_call_cancelled_late_counts_for_as_long_as_it_was_waited_for() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(20):
        waiting = bench.begin(2)
        for _ in range(50):
            bench.call(1)
        waiting.done(CANCELLED)
    assert bench.counts(100) == {1: 100}


def test_a_call_cancelled_late_does_not_count_if_no_other_node_answered_either() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(20):
        waiting = [bench.begin(2) for _ in range(20)]
        bench.call(1)
        bench.time += 2.0  # this process stood still
        for pick in waiting:
            pick.done(CANCELLED)
        bench.call(1)
    counts = bench.counts(100)
    assert counts[1] == counts[2]


def test_a_stream_that_lasted_an_hour_is_not_held_against_its_node() -> None:
    bench = Bench(1, 2)
    bench.settle()
    stream = bench.begin(2)
    for _ in range(3600):
        bench.time += 1
        bench.call(1)
        bench.call(2)
    stream.done(OK)
    counts = bench.counts(100)
    assert counts[1] == counts[2]


def test_when_all_nodes_become_slow_none_is_avoided() -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    counts: Counter[str] = Counter()
    for _ in range(3000):
        pick = bench.pick()
        counts[pick.node.id] += 1
        bench.time += 1.0
        pick.done(OK)
    assert max(counts.values()) <= 1.05 * min(counts.values())


def test_what_is_usual_follows_the_nodes() -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    for _ in range(300):
        for number, seconds in ((1, 1.0), (2, 1.0), (3, 8.0)):
            bench.call(number, seconds)
    bench.call(1, 1.0)
    assert bench.counts(50)[3] == 0


def test_a_node_that_failed_and_is_well_again_but_slow_gets_what_a_slow_node_gets() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    for _ in range(300):
        bench.call(2, 0.05)
        for _ in range(20):
            bench.call(1)
    picked = Counter(bench.pick().node.id for _ in range(100))
    assert picked["n00002"] >= 10


def test_a_newcomer_gets_a_quarter_of_what_others_have_in_flight_until_it_has_answered() -> None:
    bench = Bench(*range(9))
    bench.settle()
    for number in range(9):
        for _ in range(20):
            bench.begin(number)
    bench.nodes = nodes(*range(10))
    bench.use(*range(10))
    picks = [bench.pick() for _ in range(1000)]
    newcomers = [pick for pick in picks if pick.node.id == "n00009"]
    others = (180 + 1000 - len(newcomers)) / 9
    assert 0.15 * others <= len(newcomers) <= 0.3 * others
    bench.time += 0.01
    newcomers[0].done(OK)
    more = sum(bench.pick().node.id == "n00009" for _ in range(200))
    assert more >= 35  # now it catches up: it wins every pair that it is in


def test_a_newcomer_among_idle_nodes_gets_one_call_and_then_its_share() -> None:
    bench = Bench(*range(9))
    bench.settle()
    bench.nodes = nodes(*range(10))
    bench.use(*range(10))
    picks = [bench.pick() for _ in range(40)]
    assert sum(pick.node.id == "n00009" for pick in picks) in (1, 2)
    for pick in picks:
        pick.done(OK)
    assert 80 <= bench.counts(1000)[9] <= 120


def test_at_first_nothing_is_known_and_all_nodes_are_equal() -> None:
    bench = Bench(*range(10))
    counts = Counter(bench.pick().node.id for _ in range(1000))
    assert max(counts.values()) <= 110


def test_figures_survive_updates() -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    pick = bench.begin(1)
    bench.nodes = nodes(1, 2, 4)
    bench.use(1, 2, 4)
    bench.call(4)
    # Node 2 has failed, and 1 has a call in flight: it is picked if 2 is the other one.
    counts = bench.counts(300)
    assert counts[2] == 0
    assert 170 <= counts[4] <= 230
    pick.done(CANCELLED)
    counts = bench.counts(300)
    assert counts[2] == 0
    assert 130 <= counts[4] <= 170


def test_calls_in_flight_on_a_node_that_is_not_usable_for_a_moment_are_still_counted() -> None:
    bench = Bench(1, 2)
    bench.settle()
    picks = [bench.begin(2) for _ in range(3)]
    bench.use(1)
    bench.use(1)
    bench.use(1, 2)
    assert [bench.pick().node.id for _ in range(3)] == ["n00001"] * 3
    for pick in picks:
        pick.done(OK)
    assert bench.pick().node.id == "n00002"


def test_a_node_whose_connection_was_lost_and_is_back_is_tried_at_once() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for pick in [bench.begin(2) for _ in range(50)]:
        pick.done(UNAVAILABLE)  # it was killed
    assert bench.counts(20) == {1: 20}
    bench.use(1)
    bench.time += 1
    bench.use(1, 2)
    bench.call(1)
    assert bench.pick().node.id == "n00002"


def test_a_node_that_left_and_came_back_is_a_new_one() -> None:
    bench = Bench(1, 2)
    bench.settle()
    late = [bench.begin(2) for _ in range(5)]
    bench.nodes = nodes(1)
    bench.use(1)
    bench.nodes = nodes(1, 2)
    bench.use(1, 2)
    for pick in late:
        pick.done(INTERNAL)
    assert bench.pick().node.id == "n00002"


def test_one_node_gets_every_call() -> None:
    bench = Bench(1)
    for _ in range(20):
        bench.call(1, 0.01, INTERNAL)
    assert bench.counts(20) == {1: 20}


def test_of_two_nodes_the_untried_one_is_picked_however_bad_it_is() -> None:
    bench = Bench(1, 2)
    bench.settle()
    for _ in range(100):
        bench.call(2, 0.001, INTERNAL)
    assert bench.pick(frozenset({bench.key(1)})).node.id == "n00002"


def test_untried_nodes_are_compared_too() -> None:
    bench = Bench(*range(20))
    bench.settle()
    bench.begin(18)
    tried = frozenset(bench.key(number) for number in range(18))
    for _ in range(20):
        pick = bench.pick(tried)
        assert pick.node.id == "n00019"
        pick.done(CANCELLED)


def test_of_three_nodes_with_one_tried_the_others_are_compared() -> None:
    bench = Bench(1, 2, 3)
    bench.settle()
    bench.begin(2)
    for _ in range(20):
        pick = bench.pick(frozenset({bench.key(1)}))
        assert pick.node.id == "n00003"
        pick.done(CANCELLED)


def test_nothing_left_says_what_was_asked() -> None:
    balancer = P2C()
    with pytest.raises(NoNode, match="no node is usable"):
        balancer.pick(CALL)
    balancer.update(nodes(1, 2), nodes(1, 2))
    tried = frozenset(node.key for node in nodes(1, 2))
    with pytest.raises(NoNode, match=r"/a\.B/C was tried on each of the 2"):
        balancer.pick(CallInfo("/a.B/C", tried))
    balancer.update(EMPTY, EMPTY)
    with pytest.raises(NoNode, match="no node is usable"):
        balancer.pick(CALL)


def test_it_is_repeatable_with_a_seed() -> None:
    def run(seed: int) -> Counter[int]:
        return Bench(*range(50), seed=seed).counts(20)

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_nodes_that_were_never_usable_cost_nothing() -> None:
    balancer = P2C()
    balancer.update(nodes(*range(1000)), nodes(1, 2, 3))
    balancer.update(nodes(*range(1000)), nodes(2, 3, 4))
    balancer.update(nodes(*range(3, 1000)), nodes(4))
    assert [len(balancer._figures), len(balancer._away)] == [1, 1]


class Counting(list[Any]):
    """A list that knows how often it was looked into."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)

    def __iter__(self) -> Any:
        raise AssertionError("a pick must not go through all nodes")


def test_a_pick_looks_at_two_nodes_however_many_there_are() -> None:
    bench = Bench(*range(10_000))
    usable = bench.balancer._usable = Counting(bench.balancer._usable)
    for _ in range(100):
        bench.pick().done(OK)
    assert usable.looks == 200
    for _ in range(100):
        bench.pick(frozenset({bench.key(5)})).done(OK)
    assert usable.looks <= 420


def test_an_update_of_ten_thousand_nodes_is_linear() -> None:
    old, new = nodes(*range(10_000)), nodes(*range(5_000, 15_000))
    balancer = P2C()
    balancer.update(old, old)

    def there_and_back() -> None:
        balancer.update(new, new)
        balancer.update(old, old)

    # 12 ms of the processor here; what looks each node up in a list takes seconds.
    assert min(timeit.repeat(there_and_back, number=1, repeat=3, timer=time.thread_time)) < 0.5
