"""Zones, retries past what is preferred, and nodes that warm up."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pymicro.balancing.balancer import CallInfo, PlainPick
from pymicro.balancing.chooser import Chooser
from pymicro.base.errors import NoNode
from pymicro.nodes.node import EMPTY, NodeSet
from tests.balancing.chosen import OK, UNAVAILABLE, Service, next_pick
from tests.balancing.support import AccountedPick, Accounting, Clock, node, nodes, union, without

A = nodes(*range(10), zone="a")
B = nodes(*range(10, 20), zone="b")
TEN = nodes(*range(10))


def keys(nodes: NodeSet) -> frozenset[str]:
    return frozenset(node.key for node in nodes)


# Zones


def test_calls_stay_in_the_zone() -> None:
    service = Service(union(A, B), zone="a")
    assert service.used == A
    assert service.balancer.nodes is service.nodes


def test_lost_and_ejected_nodes_are_made_up_for_from_elsewhere() -> None:
    service = Service(union(A, B), zone="a")
    service.lose(*A.nodes[:2])
    assert set(service.used) == set(A.nodes[2:])
    service.eject(A.nodes[9])  # the seventh left of eight that are needed
    assert set(A.nodes[2:9]) < set(service.used)
    assert len(service.used) == 8
    assert len(set(service.used) & set(B)) == 1


def test_clients_overflow_to_different_nodes() -> None:
    guests: Counter[str] = Counter()
    for seed in range(100):
        service = Service(union(A, B), zone="a", seed=seed)
        service.lose(*A.nodes[:4])
        guests.update(one.key for one in service.used if one in set(B))
    assert set(guests) == keys(B)


def test_in_panic_a_zone_is_no_reason() -> None:
    service = Service(union(A, B), zone="a")
    service.lose(*A.nodes[:9], B.nodes[0], B.nodes[1])
    assert service.chooser.panicking
    assert service.used == service.reachable


def test_a_retry_leaves_the_zone_when_all_of_it_was_tried() -> None:
    service = Service(union(A, B), zone="a")
    seen = {service.call(OK, keys(A)) for _ in range(200)}
    assert seen == keys(B)
    assert {service.call(OK, keys(A) - {A.nodes[4].key}) for _ in range(20)} == {A.nodes[4].key}
    assert service.settled()


# Retries past ejection


def test_a_retry_takes_an_ejected_node_before_none_at_all() -> None:
    service = Service(nodes(1, 2))
    service.eject(node(1))
    assert service.call(OK, frozenset({node(2).key})) == node(1).key
    assert service.chooser.ejected == {node(1).key}, "its time has not come"


def test_a_retry_prefers_what_is_outside_the_zone_to_what_is_ejected() -> None:
    service = Service(union(A, B), zone="a")
    service.eject(A.nodes[0])
    tried = keys(without(A, A.nodes[0]))
    assert {service.call(OK, tried) for _ in range(100)} == keys(B)


def test_a_retry_that_has_only_a_node_in_doubt_left_is_its_probe() -> None:
    service = Service(nodes(1, 2))
    service.eject(node(1))
    service.pass_time()
    tried = frozenset({node(2).key})
    probe = service.chooser.pick(CallInfo("/a.B/C", tried))
    other = service.chooser.pick(CallInfo("/a.B/C", tried))
    assert probe.node == other.node == node(1)
    service.chooser.done(other, OK)
    assert service.chooser.ejected == {node(1).key}, "there was a probe out already"
    service.chooser.done(probe, OK)
    assert service.chooser.ejected == frozenset()


def test_when_all_were_tried_there_is_none_left() -> None:
    service = Service(union(A, B), zone="a")
    with pytest.raises(NoNode, match="was tried on each"):
        service.call(OK, keys(union(A, B)))
    service.set(union(A, B), EMPTY)
    with pytest.raises(NoNode, match="no node is usable"):
        service.call(OK)


# Slow start


def shares(service: Service, calls: int = 3000) -> Counter[str]:
    return Counter(service.call(OK) for _ in range(calls))


def test_a_new_node_gets_a_tenth_of_its_share_at_first_and_all_of_it_in_the_end() -> None:
    service = Service(TEN, slow_start=30.0)
    new = node(50)
    service.set(union(TEN, nodes(50)))
    for age, share in ((0.0, 0.1), (15.0, 0.55), (29.9, 1.0), (30.1, 1.0)):
        service.clock.now = 1000.0 + age
        # 3,000 calls on 11 nodes; the others share what it leaves.
        assert shares(service)[new.key] == pytest.approx(3000 / 11 * share, rel=0.25)
    assert service.settled()


def test_several_new_nodes_in_a_row_are_each_spared_alike() -> None:
    service = Service(nodes(*range(20)), slow_start=30.0)
    service.set(nodes(*range(26)))
    calls = shares(service, 20_000)
    new = [calls[node(number).key] for number in range(20, 26)]
    assert min(new) > 40
    assert max(new) < 140  # a tenth of 20,000 / 20.6 is 97


def test_once_all_are_warm_no_pick_is_passed_over() -> None:
    service = Service(TEN, slow_start=30.0)
    service.set(nodes(*range(11)))
    service.pass_time(31.0)
    service.call(OK)
    picks = len(service.balancer.outcomes)
    shares(service, 100)
    assert len(service.balancer.outcomes) == picks + 100


def test_nobody_is_spared_without_slow_start() -> None:
    service = Service(TEN)
    service.set(nodes(*range(11)))
    assert shares(service, 1100)[node(10).key] == 100


def test_the_first_nodes_need_not_warm_up() -> None:
    service = Service(EMPTY, slow_start=30.0)
    service.set(TEN)
    assert set(shares(service, 1000).values()) == {100}


def test_where_half_are_new_nobody_is_spared() -> None:
    service = Service(TEN, slow_start=30.0)
    service.set(nodes(*range(20)))
    assert set(shares(service, 2000).values()) == {100}


def test_new_nodes_that_left_again_are_not_counted_among_the_new() -> None:
    service = Service(TEN, slow_start=30.0)
    service.set(nodes(*range(18)))
    service.set(nodes(*range(9), 18))
    assert shares(service, 1000)[node(18).key] < 30


def test_a_node_warms_up_from_when_it_can_be_reached_and_only_once() -> None:
    service = Service(TEN, slow_start=30.0)
    every = nodes(*range(11))
    service.set(every, TEN)
    service.pass_time(100.0)
    service.set(every)
    new = node(10)
    assert shares(service, 1100)[new.key] < 40
    service.pass_time(31.0)
    service.set(every, TEN)
    service.set(every)
    assert shares(service, 1100)[new.key] == 100


def test_a_node_that_left_warms_up_when_it_comes_again() -> None:
    service = Service(nodes(*range(11)), slow_start=30.0)
    service.set(TEN)
    service.set(nodes(*range(11)))
    assert shares(service, 1100)[node(10).key] < 40


def test_a_call_with_only_a_warming_node_left_takes_it() -> None:
    service = Service(TEN, slow_start=30.0)
    service.set(nodes(*range(11)))
    assert {service.call(OK, keys(TEN)) for _ in range(20)} == {node(10).key}
    assert service.settled()


class Stubborn(Accounting):
    """A balancer that always prefers the newest node."""

    def pick(self, call: CallInfo) -> AccountedPick:
        node = self.usable.nodes[-1]
        self.in_flight[node.key] += 1
        return AccountedPick(node, self)


def test_a_balancer_that_insists_on_the_newest_node_is_given_way_to() -> None:
    balancer = Stubborn()
    chooser = Chooser(balancer, slow_start=30.0, clock=Clock(), rng=random.Random(1))
    chooser.update(TEN, TEN)
    more = nodes(*range(11))
    chooser.update(more, more)
    pick = chooser.pick(CallInfo("/a.B/C"))
    assert pick.node == node(10)
    chooser.done(pick, OK)
    assert not any(balancer.in_flight.values())


def test_a_warming_node_is_ejected_and_probed_like_any_other() -> None:
    service = Service(TEN, slow_start=30.0)
    service.set(nodes(*range(11)))
    service.eject(node(10))
    service.pass_time()
    probe = next_pick(service)
    assert isinstance(probe, PlainPick)
    assert probe.node == node(10)
    service.chooser.done(probe, UNAVAILABLE)
    assert node(10).key not in {service.call(OK) for _ in range(200)}
