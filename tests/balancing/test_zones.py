"""Who is called from within a zone."""

from __future__ import annotations

from collections import Counter

import pytest

from pymicro.balancing.policy.zones import in_zone
from pymicro.nodes.node import EMPTY, NodeSet
from tests.balancing.support import node, nodes, union

A = nodes(*range(10), zone="a")
B = nodes(*range(10, 20), zone="b")
C = nodes(*range(20, 30), zone="c")
NOWHERE = nodes(*range(30, 40))
ALL = union(A, B, C)


def some(nodes: NodeSet, count: int) -> NodeSet:
    return NodeSet(nodes.nodes[:count])


def test_without_a_zone_all_are_used() -> None:
    assert in_zone(ALL, ALL, "") is ALL
    assert in_zone(union(ALL, NOWHERE), NOWHERE, "") is NOWHERE


def test_a_zone_with_nobody_in_it_uses_all() -> None:
    assert in_zone(ALL, ALL, "d") is ALL
    assert in_zone(NOWHERE, NOWHERE, "a") is NOWHERE


def test_a_zone_that_is_well_keeps_its_calls() -> None:
    assert in_zone(ALL, ALL, "a") == A
    assert in_zone(ALL, ALL, "b") == B


def test_a_service_in_one_zone_only_is_used_as_it_is() -> None:
    reachable = some(A, 1)
    assert in_zone(A, reachable, "a") is reachable


def test_a_zone_is_enough_until_less_than_1_of_1_4_can_be_reached() -> None:
    assert in_zone(ALL, union(some(A, 8), B, C), "a") == some(A, 8)
    assert len(in_zone(ALL, union(some(A, 7), B, C), "a")) == 8


@pytest.mark.parametrize(("own", "others"), [(8, 0), (7, 1), (6, 2), (5, 3), (2, 6), (1, 7)])
def test_what_a_zone_lacks_is_filled_up_from_elsewhere(own: int, others: int) -> None:
    used = in_zone(ALL, union(some(A, own), B, C), "a")
    assert set(some(A, own)) <= set(used)
    assert len(used) == own + others
    assert used == NodeSet.of(used), "in the order of their keys"


def test_the_others_are_enough_or_all_there_are() -> None:
    assert in_zone(ALL, union(some(A, 2), some(B, 3)), "a") == union(some(A, 2), some(B, 3))
    assert in_zone(ALL, EMPTY, "a") == EMPTY


def test_with_nobody_of_the_zone_reachable_all_the_others_are_used() -> None:
    others = union(B, C)
    assert in_zone(ALL, others, "a") is others


def test_a_small_zone_is_not_run_over() -> None:
    small = union(some(A, 4), B, C)  # an even share is 8, half of it 4
    assert in_zone(small, small, "a") == some(A, 4)
    assert in_zone(small, union(some(A, 3), B, C), "a") == some(A, 3)
    smaller = union(some(A, 3), B, C)
    used = in_zone(smaller, smaller, "a")
    assert len(used) == 4
    assert set(some(A, 3)) < set(used)


def test_nodes_of_an_unknown_zone_are_elsewhere() -> None:
    every = union(A, NOWHERE)
    assert in_zone(every, every, "a") == A
    used = in_zone(every, union(some(A, 5), NOWHERE), "a")
    assert len(used) == 8
    assert set(used) - set(A) <= set(NOWHERE)


def test_where_most_say_nothing_of_zones_nobody_is_preferred() -> None:
    unknown, one = nodes(*range(9)), node(9, "a")
    everybody = NodeSet.of([*unknown, one])
    assert in_zone(everybody, everybody, "a") is everybody
    # Half of them do.
    some = NodeSet.of([*nodes(0, 1), node(8, "a"), one])
    assert set(in_zone(some, some, "a")) == {node(8, "a"), one}


def test_a_client_fills_up_with_the_same_nodes_each_time() -> None:
    reachable = union(some(A, 5), B, C)
    used = in_zone(ALL, reachable, "a", "me")
    assert in_zone(ALL, reachable, "a", "me") == used
    # One more of ours is back: one of theirs is let go, the others stay.
    better = in_zone(ALL, union(some(A, 6), B, C), "a", "me")
    assert set(better) - set(A) < set(used) - set(A)


def test_ten_thousand_nodes_can_be_chosen_from() -> None:
    every = union(nodes(*range(5000), zone="a"), nodes(*range(5000, 10_000), zone="b"))
    used = in_zone(every, NodeSet(every.nodes[3000:]), "a")
    assert len(used) == 3572  # 5,000 / 1.4
    assert used.nodes[:2000] == every.nodes[3000:5000]


def test_clients_fill_up_with_different_nodes() -> None:
    reachable = union(some(A, 5), B, C)
    guests = Counter(
        one.key
        for client in range(400)
        for one in in_zone(ALL, reachable, "a", f"client {client}")
        if one in set(B) | set(C)
    )
    # 3 of 20 for each of 400 clients: 60 to each node, give or take 7.
    assert len(guests) == 20
    assert max(guests.values()) < 90
    assert min(guests.values()) > 30
