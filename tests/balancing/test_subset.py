"""Which nodes of a large service one client uses."""

from __future__ import annotations

import random
import statistics
from collections import Counter

import pytest

from pymicro.balancing.policy.rendezvous import ranking
from pymicro.balancing.policy.subset import Subset
from pymicro.nodes.node import EMPTY, Node, NodeSet
from tests.balancing.support import node, nodes, union, without


def fresh(size: int, seed: str, nodes: NodeSet) -> NodeSet:
    """What a client chooses that saw nothing before."""
    return Subset(size, seed).choose(nodes)


@pytest.mark.parametrize("size", [0, 10, 11, 1000])
def test_all_are_used_where_the_size_is_none_or_not_exceeded(size: int) -> None:
    every = nodes(*range(10))
    assert Subset(size, "me").choose(every) is every


def test_as_many_are_chosen_as_asked_for_and_they_are_the_same_objects_in_order() -> None:
    every = nodes(*range(50))
    chosen = fresh(20, "me", every)
    assert len(chosen) == 20
    given = {id(one) for one in every}
    assert all(id(one) in given for one in chosen)
    assert chosen == NodeSet.of(chosen)


def test_each_client_chooses_others_and_always_the_same() -> None:
    every = nodes(*range(100))
    assert fresh(10, "me", every) == fresh(10, "me", every)
    assert fresh(10, "me", every) != fresh(10, "you", every)
    # A key of blake2b ends at 64 bytes; a seed does not.
    assert fresh(10, "x" * 64 + "me", every) != fresh(10, "x" * 64 + "you", every)


def test_one_node_leaving_changes_at_most_one_member() -> None:
    every = nodes(*range(60))
    chosen = fresh(12, "me", every)
    for one in every:
        rest = fresh(12, "me", without(every, one))
        lost = set(chosen) - set(rest)
        assert lost == ({one} if one in set(chosen) else set())
        assert len(set(rest) - set(chosen)) == len(lost)


def test_one_node_arriving_changes_at_most_one_member() -> None:
    every = nodes(*range(60))
    chosen = fresh(12, "me", every)
    taken = 0
    for number in range(60, 160):
        more = fresh(12, "me", union(every, nodes(number)))
        new = set(more) - set(chosen)
        assert new <= {node(number)}
        assert len(set(chosen) - set(more)) == len(new)
        taken += len(new)
    assert 5 < taken < 35  # 12 of 61, of 100


def test_a_node_that_comes_back_elsewhere_or_anew_is_another_node() -> None:
    rank = ranking("me")
    assert rank(Node("a", "10.0.0.1:80").key) != rank(Node("a", "10.0.0.2:80").key)
    assert rank(Node("a", "10.0.0.1:80").key) != rank(Node("b", "10.0.0.1:80").key)


def test_a_chosen_node_whose_metadata_change_is_handed_on_as_it_is_now() -> None:
    every = nodes(*range(50))
    subset = Subset(20, "me")
    before = subset.choose(every)
    one = before.nodes[7]
    changed = Node(one.id, one.address, one.service, metadata={"weight": "2"})
    after = subset.choose(union(every, NodeSet.of([changed])))
    assert after.nodes[7] is changed
    assert [other for other in after if other is not changed] == [n for n in before if n is not one]


def test_the_set_itself_comes_again_where_nothing_about_it_changed() -> None:
    every = nodes(*range(50))
    subset = Subset(20, "me")
    chosen = subset.choose(every)
    outside = next(one for one in every if one not in set(chosen))
    assert subset.choose(every) is chosen
    assert subset.choose(without(every, outside)) is chosen


def test_a_set_that_shrinks_below_the_size_and_grows_again_is_as_good_as_new() -> None:
    subset = Subset(20, "me")
    for count in (50, 20, 21, 0, 30, 5, 40):
        every = nodes(*range(count))
        assert subset.choose(every) == fresh(20, "me", every)
    assert subset.choose(EMPTY) is EMPTY


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.once) for seed in range(1, 5))])
def test_changes_one_after_the_other_lead_where_the_last_set_alone_leads(seed: int) -> None:
    rng = random.Random(seed)
    subset = Subset(15, "me")
    here: set[int] = set()
    for step in range(400):
        # Mostly a few at a time, sometimes as many as in a deployment.
        for number in rng.sample(range(300), rng.choice((0, 1, 2, 5, 150))):
            here ^= {number}
        every = nodes(*here)
        assert subset.choose(every) == fresh(15, "me", every), f"step {step}"
    assert len(subset._by_rank) == len(subset._ranks) == len(subset._order) <= len(here), (
        "who left is forgotten"
    )


def test_a_few_changes_among_ten_thousand_nodes_are_not_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    every = nodes(*range(10_000))
    subset = Subset(100, "me")
    subset.choose(every)
    ranked: list[str] = []
    rank = subset._rank
    monkeypatch.setattr(subset, "_rank", lambda key: ranked.append(key) or rank(key))
    changed = union(without(every, *every.nodes[500:510]), nodes(*range(20_000, 20_010)))
    assert subset.choose(changed) == fresh(100, "me", changed)
    assert ranked == [one.key for one in nodes(*range(20_000, 20_010))]


def test_clients_together_use_all_nodes_about_alike() -> None:
    every = nodes(*range(100))
    users = Counter(one.key for client in range(500) for one in fresh(20, f"client {client}", every))
    assert len(users) == 100
    # Binomial: 100 users each, a standard deviation of 9.
    assert statistics.pstdev(users.values()) == pytest.approx(9, rel=0.3)
