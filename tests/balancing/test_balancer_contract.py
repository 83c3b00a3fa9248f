"""Every built-in balancer passes the contract suite; balancers broken on purpose fail it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pymicro.balancing.balancer import Balancer, CallInfo, Outcome, Pick
from pymicro.balancing.balancers.random import Random
from pymicro.balancing.balancers.round_robin import RoundRobin
from pymicro.base.errors import NoNode
from pymicro.nodes.node import Node, NodeSet
from pymicro.testing.balancer import BalancerContract


class TestRoundRobin(BalancerContract):
    evenness = 1.01  # the bar

    def make(self) -> Balancer:
        return RoundRobin()


class TestRandom(BalancerContract):
    # Chance alone: the mean of 1,000 has a deviation of 3 %, this is more than six of them.
    evenness = 1.2

    def make(self) -> Balancer:
        return Random()


class PicksUnusable(RoundRobin):
    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        super().update(nodes, nodes)


class IgnoresTried(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        return super().pick(CallInfo(call.method))


class GivesUpEarly(Random):
    """Draws a few times and then says that there is nothing."""

    def pick(self, call: CallInfo) -> Any:
        for _ in range(20):
            pick = super().pick(CallInfo(call.method))
            if pick.node.key not in call.tried:
                return pick
        raise NoNode("unlucky")


class AlwaysTheFirst(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        self._next = 0
        return super().pick(call)


class StartsOverAtEachUpdate(RoundRobin):
    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        self._ring, self._next = [], 0
        super().update(nodes, usable)
        self._ring.sort(key=lambda pick: pick.node.key)


class KeepsWhoLeft(RoundRobin):
    def __init__(self) -> None:
        super().__init__()
        self._all: dict[str, Node] = {}

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        self._all.update({node.key: node for node in usable})
        super().update(nodes, NodeSet.of(self._all.values()))


class KeepsOldMetadata(RoundRobin):
    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        old = {pick.node.key: pick.node for pick in self._ring}
        super().update(nodes, NodeSet.of(old.get(node.key, node) for node in usable))


class RaisesSomethingElse(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        try:
            return super().pick(call)
        except NoNode:
            raise IndexError("list index out of range") from None


class ReturnsNothing(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        try:
            return super().pick(call)
        except NoNode:
            return None


class IsACoroutine(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        class Later:
            def __await__(self) -> Any:
                yield

        super().pick(call)
        return Later()


class OnePickForAll(RoundRobin):
    """Saves memory by handing out the same changing object."""

    class Shared:
        node: Node

        def done(self, outcome: Outcome) -> None:
            """Nothing to note."""

    def __init__(self) -> None:
        super().__init__()
        self._shared = self.Shared()

    def pick(self, call: CallInfo) -> Any:
        self._shared.node = super().pick(call).node
        return self._shared


class ForgetsWhoLeft(RoundRobin):
    """Keeps figures by node, and has none for a node that left before its call ended."""

    def pick(self, call: CallInfo) -> Any:
        pick, balancer = super().pick(call), self

        class Counted:
            node = pick.node

            def done(self, outcome: Outcome) -> None:
                {other.node.key: 0 for other in balancer._ring}[self.node.key] += 1

        return Counted()


class ChokesOnCancel(RoundRobin):
    def pick(self, call: CallInfo) -> Any:
        pick: Pick = super().pick(call)

        class Noted:
            node = pick.node

            def done(self, outcome: Outcome) -> None:
                assert not outcome.local

        return Noted()


class SharedByAll(RoundRobin):
    everybodys: list[Any] = []  # noqa: RUF012

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        super().update(nodes, usable)
        self.everybodys[:] = self._ring

    def pick(self, call: CallInfo) -> Any:
        self._ring = list(self.everybodys)
        return super().pick(call)


class HeavyOnOne(Random):
    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        super().update(nodes, usable)
        self._picks += self._picks[:1]


FAULTS: list[tuple[type[Any], str]] = [
    (RaisesSomethingElse, "test_before_the_first_set_there_is_no_node"),
    (ReturnsNothing, "test_an_empty_set_has_no_node"),
    (KeepsWhoLeft, "test_an_empty_set_has_no_node"),
    (PicksUnusable, "test_only_usable_nodes_are_picked"),
    (PicksUnusable, "test_nothing_usable_among_known_nodes_is_no_node"),
    (IsACoroutine, "test_only_usable_nodes_are_picked"),
    (IgnoresTried, "test_nodes_tried_before_are_not_picked_again"),
    (GivesUpEarly, "test_the_one_node_left_is_found_among_many_tried"),
    (KeepsWhoLeft, "test_a_node_that_left_is_not_picked_and_one_that_came_is"),
    (KeepsOldMetadata, "test_a_node_that_changed_is_picked_as_it_is_now"),
    (OnePickForAll, "test_a_pick_keeps_its_node_and_can_be_done_after_the_node_left"),
    (ForgetsWhoLeft, "test_a_pick_keeps_its_node_and_can_be_done_after_the_node_left"),
    (ChokesOnCancel, "test_every_outcome_is_taken"),
    (AlwaysTheFirst, "test_load_is_spread"),
    (HeavyOnOne, "test_load_is_spread"),
    (StartsOverAtEachUpdate, "test_a_set_that_changes_all_the_time_starves_nobody_and_floods_nobody"),
    (SharedByAll, "test_balancers_do_not_share_what_they_know"),
]


def suite_over(kind: Callable[[], Balancer]) -> BalancerContract:
    suite = BalancerContract()
    suite.make = kind  # type: ignore[method-assign]
    suite.evenness = 1.2  # type: ignore[misc]
    return suite


@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=[f"{kind.__name__}-{name}" for kind, name in FAULTS])
def test_a_broken_balancer_fails(kind: type[Any], name: str) -> None:
    arguments = [Outcome(1, local=True)] if name == "test_every_outcome_is_taken" else []
    getattr(suite_over(RoundRobin), name)(*arguments)
    with pytest.raises((AssertionError, KeyError, NoNode)):
        getattr(suite_over(kind), name)(*arguments)


def test_every_test_of_the_suite_has_caught_something() -> None:
    tests = {name for name in dir(BalancerContract) if name.startswith("test_")}
    assert tests == {name for _, name in FAULTS}
