"""What every balancer must do, as tests to inherit.

class TestMyBalancer(BalancerContract):
    def make(self) -> Balancer:
        return Mine(config)
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Balancer, CallInfo, Pick
from pymicro.base.errors import NoNode
from pymicro.nodes.node import EMPTY, Node, NodeSet

__all__ = ["BalancerContract"]

_CALL = CallInfo("/greeter.v1.Greeter/SayHello")
_STREAM = CallInfo("/greeter.v1.Greeter/CountDown", streams=True)


def _set(*numbers: int, zone: str = "a") -> NodeSet:
    return NodeSet.of(
        Node(id=f"n{number:05}", address=f"10.0.0.1:{number + 1}", service="greeter", metadata={"zone": zone})
        for number in numbers
    )


class BalancerContract:
    """The suite.

    Attributes:
        evenness: By how much the busiest of ten nodes may exceed the mean, after
            1,000 picks for each that all ended well at once.
    """

    evenness: ClassVar[float] = 1.10

    def make(self) -> Balancer:
        """A new balancer."""
        raise NotImplementedError("define make()")

    def _call(self, balancer: Balancer, call: CallInfo = _CALL) -> Node:
        pick = balancer.pick(call)
        assert not inspect.isawaitable(pick), "pick() chooses at once: it must be no coroutine"
        node = pick.node
        pick.done(OUTCOMES[0])
        return node

    def _no_node(self, balancer: Balancer, call: CallInfo = _CALL) -> None:
        try:
            pick = balancer.pick(call)
        except NoNode:
            return
        except Exception as exc:
            raise AssertionError(f"pick() must raise NoNode when nothing is left, not {exc!r}") from exc
        raise AssertionError(f"pick() must raise NoNode when nothing is left, not return {pick!r}")

    def test_before_the_first_set_there_is_no_node(self) -> None:
        self._no_node(self.make())

    def test_an_empty_set_has_no_node(self) -> None:
        balancer = self.make()
        balancer.update(EMPTY, EMPTY)
        self._no_node(balancer)
        balancer.update(_set(1, 2), _set(1, 2))
        balancer.update(EMPTY, EMPTY)
        self._no_node(balancer)

    def test_only_usable_nodes_are_picked(self) -> None:
        balancer = self.make()
        balancer.update(_set(1, 2, 3, 4), _set(2, 4))
        picked = {self._call(balancer) for _ in range(200)}
        assert picked == set(_set(2, 4)), (
            f"picked {sorted(node.id for node in picked)}, usable were n2 and n4"
        )

    def test_nothing_usable_among_known_nodes_is_no_node(self) -> None:
        balancer = self.make()
        balancer.update(_set(1, 2), EMPTY)
        self._no_node(balancer)

    def test_nodes_tried_before_are_not_picked_again(self) -> None:
        balancer = self.make()
        nodes = _set(*range(10))
        balancer.update(nodes, nodes)
        for _ in range(50):
            tried: frozenset[str] = frozenset()
            for _ in nodes:
                node = self._call(balancer, CallInfo("/a.B/C", tried))
                assert node.key not in tried, f"{node.id} was tried already"
                tried |= {node.key}
            self._no_node(balancer, CallInfo("/a.B/C", tried))

    def test_the_one_node_left_is_found_among_many_tried(self) -> None:
        balancer = self.make()
        nodes = _set(*range(1000))
        balancer.update(nodes, nodes)
        left = nodes.nodes[617]
        tried = frozenset(node.key for node in nodes if node is not left)
        for _ in range(5):
            assert self._call(balancer, CallInfo("/a.B/C", tried)) == left

    def test_a_node_that_left_is_not_picked_and_one_that_came_is(self) -> None:
        balancer = self.make()
        balancer.update(_set(1, 2), _set(1, 2))
        self._call(balancer)
        balancer.update(_set(2, 3), _set(2, 3))
        picked = {self._call(balancer) for _ in range(200)}
        assert picked == set(_set(2, 3)), (
            f"picked {sorted(node.id for node in picked)}, usable were n2 and n3"
        )

    def test_a_node_that_changed_is_picked_as_it_is_now(self) -> None:
        balancer = self.make()
        balancer.update(_set(1), _set(1))
        self._call(balancer)
        balancer.update(_set(1, zone="b"), _set(1, zone="b"))
        assert self._call(balancer).metadata == {"zone": "b"}

    def test_a_pick_keeps_its_node_and_can_be_done_after_the_node_left(self) -> None:
        balancer = self.make()
        nodes = _set(*range(5))
        balancer.update(nodes, nodes)
        picks: list[tuple[Pick, Node]] = []
        for _ in range(20):
            pick = balancer.pick(_CALL)
            picks.append((pick, pick.node))
        balancer.update(_set(7), _set(7))
        for pick, node in picks:
            assert pick.node == node, f"a pick of {node.id} became one of {pick.node.id}"
            pick.done(OUTCOMES[14])
        assert self._call(balancer) == _set(7).nodes[0]

    @pytest.mark.parametrize("outcome", [*OUTCOMES, CANCELLED], ids=str)
    def test_every_outcome_is_taken(self, outcome: object) -> None:
        balancer = self.make()
        nodes = _set(1, 2, 3)
        balancer.update(nodes, nodes)
        for _ in range(30):
            balancer.pick(_CALL).done(outcome)  # type: ignore[arg-type]
            balancer.pick(_STREAM).done(outcome)  # type: ignore[arg-type]
        assert self._call(balancer) in nodes.nodes

    def test_load_is_spread(self) -> None:
        balancer = self.make()
        nodes = _set(*range(10))
        balancer.update(nodes, nodes)
        counts = Counter(self._call(balancer) for _ in range(1000 * len(nodes)))
        busiest = max(counts.values()) / 1000
        assert len(counts) == len(nodes), f"only {len(counts)} of {len(nodes)} nodes were picked"
        assert busiest <= self.evenness, f"the busiest node has {busiest:.3f} of the mean"

    def test_a_set_that_changes_all_the_time_starves_nobody_and_floods_nobody(self) -> None:
        balancer = self.make()
        counts: Counter[Node] = Counter()
        stable = _set(*range(8))
        for turn in range(800):
            # One more node comes and goes, by turns before the others in the order and after them.
            extra = replace(stable.nodes[0], id=("a" if turn % 2 else "z") + str(turn), address="10.0.0.2:80")
            nodes = NodeSet.of([*stable, extra])
            balancer.update(nodes, nodes)
            counts[self._call(balancer)] += 1
        shares = {node.id: counts[node] for node in stable}
        assert min(shares.values()) >= 40, f"starved although always usable: {shares}"
        assert max(shares.values()) <= 200, f"flooded: {shares}"

    def test_balancers_do_not_share_what_they_know(self) -> None:
        one, two = self.make(), self.make()
        one.update(_set(1), _set(1))
        self._no_node(two)
        two.update(_set(2), _set(2))
        assert self._call(one) == _set(1).nodes[0]
