"""Who is ejected, and who is not."""

from __future__ import annotations

import logging

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, PlainPick
from pymicro.balancing.policy.outliers import FAILURES
from pymicro.base.errors import NoNode
from pymicro.nodes.node import EMPTY
from tests.balancing.chosen import OK, UNAVAILABLE, Service, next_pick
from tests.balancing.support import CALL, node, nodes, union, without

TEN = nodes(*range(10))
BAD = TEN.nodes[3]


# Out


def test_with_nothing_amiss_the_balancer_gets_the_sets_as_they_are() -> None:
    service = Service(TEN)
    reachable = nodes(1, 2, 3, 4, 5, 6)
    service.set(TEN, reachable)
    assert service.balancer.nodes is TEN
    assert service.used is reachable


def test_five_failures_in_a_row_eject_a_node() -> None:
    service = Service(TEN)
    service.fail(BAD, 4)
    assert service.chooser.ejected == frozenset()
    assert service.changes == 0
    service.fail(BAD, 1)
    assert service.chooser.ejected == {BAD.key}
    assert service.changes == 1
    assert service.used == without(TEN, BAD)
    assert service.balancer.nodes is TEN, "its figures are kept"
    assert not service.chooser.panicking


def test_a_rate_of_failures_ejects_a_node_too() -> None:
    service = Service(TEN)
    service.serve(3)
    for _ in range(40):
        service.fail(BAD, 2)
        service.fail(BAD, 1, OK)
        service.clock.now += 0.05
    assert service.chooser.ejected == {BAD.key}


@pytest.mark.parametrize("code", sorted(set(range(17)) - FAILURES))
def test_an_answer_about_the_request_is_no_failure_of_the_node(code: int) -> None:
    service = Service(TEN)
    service.fail(BAD, 100, OUTCOMES[code])
    assert service.chooser.ejected == frozenset()
    service.fail(BAD, 4)
    service.fail(BAD, 1, OUTCOMES[code])
    service.fail(BAD, 4)
    assert service.chooser.ejected == frozenset()


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_what_a_broken_node_says_is(code: int) -> None:
    service = Service(TEN)
    service.fail(BAD, 5, OUTCOMES[code])
    assert service.chooser.ejected == {BAD.key}


def test_what_our_side_cancelled_says_nothing() -> None:
    service = Service(TEN)
    service.fail(BAD, 100, CANCELLED)
    service.fail(BAD, 4)
    service.fail(BAD, 1, CANCELLED)
    assert service.chooser.ejected == frozenset()
    service.fail(BAD, 1)
    assert service.chooser.ejected == {BAD.key}, "nor does it make good for anything"
    assert service.balancer.outcomes.count(CANCELLED) == 101


def test_a_blocked_event_loop_ejects_nobody() -> None:
    service = Service(TEN)
    picks = [next_pick(service) for _ in range(200)]
    service.pass_time(2.0)
    for pick in picks:
        service.chooser.done(pick, OUTCOMES[4], late=True)
    assert service.chooser.ejected == frozenset()
    assert service.balancer.outcomes == [CANCELLED] * 200, "nor does a balancer learn from it"
    # Neither for nor against: it was as far from being ejected before.
    service.fail(BAD, 4)
    service.chooser.done(service.pick_of(BAD), OK, late=True)
    service.fail(BAD, 1)
    assert service.chooser.ejected == {BAD.key}


def test_the_balancer_is_told_how_each_call_ended() -> None:
    service = Service(TEN)
    ends = [OK, UNAVAILABLE, OUTCOMES[5], CANCELLED, OUTCOMES[1]]
    for end in ends:
        service.call(end)
    assert service.balancer.outcomes == ends
    assert service.settled()


# How many at most


def test_a_single_node_is_never_ejected() -> None:
    service = Service(nodes(1))
    service.fail(node(1), 500)
    assert service.chooser.ejected == frozenset()
    assert service.picked() == {node(1).key}


def test_of_two_nodes_one_may_be_ejected() -> None:
    one, other = node(1), node(2)
    service = Service(nodes(1, 2))
    service.broken = {one.key: 14, other.key: 14}
    service.serve(0.5)
    assert len(service.chooser.ejected) == 1
    assert len(service.used) == 1
    assert not service.chooser.panicking


def test_the_last_one_reachable_is_not_ejected() -> None:
    service = Service(TEN)
    service.lose(*TEN.nodes[1:])
    service.fail(TEN.nodes[0], 50)
    assert service.chooser.ejected == frozenset()


@pytest.mark.parametrize(("count", "most"), [(2, 1), (3, 1), (10, 1), (19, 1), (20, 2), (35, 3), (100, 10)])
def test_at_most_a_tenth_is_ejected_but_one(count: int, most: int) -> None:
    service = Service(nodes(*range(count)))
    service.broken = {one.key: 14 for one in service.nodes}
    service.serve(0.79, rate=2000)
    assert len(service.chooser.ejected) == most
    assert len(service.used) == count - most


def test_the_cap_holds_between_two_updates() -> None:
    service = Service(TEN)
    service.chooser.changed = lambda: None
    picks = [next_pick(service) for _ in range(200)]
    for pick in picks:
        service.chooser.done(pick, UNAVAILABLE)
    assert len(service.chooser.ejected) == 1
    # Nor does a probe wait for one, nor another ejection after it.
    service.pass_time()
    probe = next_pick(service)
    assert isinstance(probe, PlainPick)
    assert {probe.node.key} == service.chooser.ejected
    service.chooser.done(probe, OK)
    service.eject(BAD)


def test_nodes_without_a_connection_count_among_all() -> None:
    every = nodes(*range(40))
    service = Service(every)
    service.lose(*every.nodes[25:])
    for one in every.nodes[:10]:
        service.fail(one)
    assert len(service.chooser.ejected) == 4


def test_an_ejected_node_that_is_lost_leaves_its_place_to_another() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.lose(BAD)
    service.fail(TEN.nodes[5])
    assert service.chooser.ejected == {BAD.key, TEN.nodes[5].key}


def test_a_node_that_is_not_reachable_is_not_ejected_for_the_calls_it_takes_along() -> None:
    service = Service(TEN)
    picks = [service.pick_of(BAD) for _ in range(20)]
    service.lose(BAD)
    for pick in picks:
        service.chooser.done(pick, UNAVAILABLE)
    assert service.chooser.ejected == frozenset()
    assert service.changes == 0


def test_sixty_percent_failing_are_used_but_for_the_cap() -> None:
    service = Service(TEN)
    service.broken = {one.key: 14 for one in TEN.nodes[:6]}
    for _ in range(200):
        service.serve(0.5)
        assert len(service.used) >= 9
        assert set(TEN.nodes[6:]) <= set(service.used)


# Panic


@pytest.mark.parametrize(
    ("ejected", "failed", "count", "panic"),
    [
        (0, 0, 10, False),
        (1, 0, 2, False),
        (1, 4, 10, False),
        (0, 5, 10, False),
        (1, 5, 10, True),
        (0, 6, 10, True),
        (1, 9, 10, True),
    ],
)
def test_below_half_well_all_reachable_ones_are_used(
    ejected: int, failed: int, count: int, panic: bool
) -> None:
    every = nodes(*range(count))
    service = Service(every)
    if ejected:
        service.eject(every.nodes[0])
    service.lose(*every.nodes[count - failed :])
    assert service.chooser.panicking == panic
    reachable = every.nodes[: count - failed]
    assert service.used.nodes == (reachable if panic else reachable[ejected:])


def test_panic_ends_when_enough_are_well_again() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.lose(*TEN.nodes[5:])
    assert service.chooser.panicking
    assert BAD in set(service.used)
    service.lose(*TEN.nodes[6:])
    assert not service.chooser.panicking
    assert BAD not in set(service.used)


def test_where_all_reachable_ones_are_ejected_they_are_used() -> None:
    service = Service(nodes(1, 2))
    service.eject(node(1))
    service.set(nodes(1, 2), nodes(1))  # the other is being connected, it has not failed
    assert service.used == nodes(1)
    assert service.picked() == {node(1).key}
    service.set(nodes(1, 2), EMPTY)
    assert service.used == EMPTY


def test_in_panic_an_ejected_node_is_probed_as_ever() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.lose(*TEN.nodes[5:])
    service.pass_time()
    assert service.call(OK) == BAD.key
    assert service.chooser.ejected == frozenset()


# A record's life


def test_a_node_keeps_its_record_while_it_is_listed() -> None:
    service = Service(TEN)
    service.fail(BAD, 4)
    service.lose(BAD)
    service.set(union(without(TEN, BAD), nodes(3, zone="changed")))
    service.fail(service.nodes.nodes[3], 1)
    assert service.chooser.ejected == {BAD.key}


def test_a_node_that_left_and_came_back_is_a_new_one() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.set(without(TEN, BAD))
    assert service.chooser.ejected == frozenset()
    service.set(TEN)
    assert BAD.key in service.picked()
    service.fail(BAD, 4)
    assert service.chooser.ejected == frozenset()


def test_calls_that_outlive_their_node_are_counted_out_and_that_is_all() -> None:
    service = Service(TEN)
    picks = [service.pick_of(BAD) for _ in range(10)]
    service.set(without(TEN, BAD))
    for pick, end in zip(picks, [OK, UNAVAILABLE] * 5, strict=True):
        service.chooser.done(pick, end)
    assert service.settled()
    assert service.chooser.ejected == frozenset()


def test_a_probe_that_outlives_its_node_means_nothing_to_the_next_of_that_name() -> None:
    service = Service(TEN)
    service.eject(BAD)
    service.pass_time()
    probe = next_pick(service)
    service.set(without(TEN, BAD))
    service.set(TEN)
    service.eject(BAD)
    service.chooser.done(probe, OK)
    assert service.chooser.ejected == {BAD.key}


# Over time


def test_a_fast_failing_node_gets_few_calls() -> None:
    service = Service(TEN)
    service.broken = {BAD.key: 14}
    calls = service.serve(120, rate=200)
    # Five before it is found out, then a probe after 1, 2, 4, … 60 seconds.
    assert 5 <= calls[BAD.key] <= 5 + 8


def test_a_flapping_node_is_out_for_longer_each_time() -> None:
    service = Service(TEN)
    shares = []
    for _ in range(6):
        service.broken = {BAD.key: 14}
        service.serve(0.5)
        service.broken = {}
        seconds = 0.0
        while service.chooser.ejected:
            service.serve(0.1)
            seconds += 0.1
        shares.append(seconds)
    assert shares == sorted(shares)
    assert shares[-1] > 20


def test_a_node_that_was_mended_is_soon_used_as_before() -> None:
    service = Service(TEN)
    service.broken = {BAD.key: 14}
    service.serve(3)
    service.broken = {}
    service.serve(5)
    assert service.chooser.ejected == frozenset()
    assert service.serve(10)[BAD.key] == pytest.approx(100, abs=2)


# Off


def test_ejection_can_be_turned_off() -> None:
    service = Service(TEN, ejection=False)
    service.broken = {BAD.key: 14}
    service.serve(20)
    assert service.chooser.ejected == frozenset()
    assert service.used is TEN
    assert service.changes == 0
    service.chooser.reconnected(BAD.key)
    service.call(UNAVAILABLE)
    service.chooser.done(next_pick(service), OK, late=True)
    assert service.balancer.outcomes[-1] == CANCELLED
    assert service.settled()


# Said


def test_each_ejection_and_return_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pymicro.client")
    service = Service(TEN)
    service.pass_time(5)
    service.eject(BAD)
    service.pass_time()
    service.call(UNAVAILABLE)
    service.pass_time(2.41)
    service.call(OK)
    first, second, third = [record.getMessage() for record in caplog.records]
    assert first.startswith(f"greeter: node {BAD.key} is ejected for ")
    assert first.endswith(" s: 5 calls in a row failed, the last with status 14")
    assert second.endswith(" s: its probe failed with status 14")
    assert third == f"greeter: node {BAD.key} is back after 3.6 s: its probe succeeded"


def test_with_nothing_reachable_there_is_no_node() -> None:
    service = Service(EMPTY)
    with pytest.raises(NoNode):
        service.chooser.pick(CALL)
