"""Nodes of many objects as one set: right after any changes, and nothing is built in vain."""

from __future__ import annotations

import random
from types import MappingProxyType

import pytest

from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.table import NodeTable

Objects = dict[str, tuple[Node, ...]]


def node(number: int, version: str = "") -> Node:
    return Node(f"greeter-{number}", f"10.0.0.{number % 250}:80", "greeter", version)


@pytest.mark.parametrize("seed", range(30))
def test_after_any_changes_it_is_the_set_of_all_nodes(seed: int) -> None:
    chance = random.Random(seed)
    table = NodeTable()
    parts: dict[str, Objects] = {"a": {}, "b": {}}
    # Few numbers make keys that two objects share.
    numbers = chance.choice([20, 400])
    for _ in range(60):
        name = chance.choice(["a", "a", "b"])
        part = parts[name] = dict(parts[name])
        for _ in range(chance.choice([0, 1, 1, 2, 60])):
            uid = str(chance.randrange(60))
            if chance.random() < 0.3:
                part.pop(uid, None)
            else:
                count = chance.choice([1, 1, 2])
                part[uid] = tuple(node(chance.randrange(numbers), chance.choice("12")) for _ in range(count))
        if chance.random() < 0.1:  # everything was read anew
            part.update({uid: tuple(node_ for node_ in nodes) for uid, nodes in part.items()})
        found = table.replace(name, MappingProxyType(part))
        everything = [one for objects in parts.values() for nodes in objects.values() for one in nodes]
        assert {one.key for one in found} == {one.key for one in everything}
        assert found == NodeSet.of(found)
        # Of two with one key either may be there; a node that is not is wrong.
        assert all(one in everything for one in found)


def test_nothing_changed_is_the_same_set() -> None:
    table = NodeTable()
    objects: Objects = {str(number): (node(number),) for number in range(100)}
    first = table.replace(None, objects)
    assert table.replace(None, dict(objects)) is first
    again: Objects = {str(number): (node(number),) for number in range(100)}
    assert table.replace(None, again) is first


def test_what_stays_are_the_same_objects() -> None:
    table = NodeTable()
    objects: Objects = {str(number): (node(number),) for number in range(100)}
    first = table.replace(None, objects)
    del objects["7"]
    objects["new"] = (node(500),)
    objects["8"] = (node(8, "2"),)
    second = table.replace(None, objects)
    known = set(map(id, first))
    assert [one.id for one in second if id(one) not in known] == ["greeter-500", "greeter-8"]
    assert len(second) == 100


def test_what_was_read_anew_and_found_equal_is_compared_by_identity_from_then_on() -> None:
    table = NodeTable()
    table.replace(None, {str(number): (node(number),) for number in range(100)})
    again: Objects = {str(number): (node(number),) for number in range(100)}
    table.replace(None, again)
    changed = table.replace(None, {**again, "7": (node(7, "2"),)})
    known = {id(one) for nodes in again.values() for one in nodes}
    assert [one.id for one in changed if id(one) not in known] == ["greeter-7"]


def test_a_part_that_is_replaced_leaves_the_other_alone() -> None:
    table = NodeTable()
    table.replace("a", {"1": (node(1),)})
    table.replace("b", {"2": (node(2),)})
    assert [one.id for one in table.replace("a", {})] == ["greeter-2"]
    assert [one.id for one in table.replace("b", {})] == []


def test_a_key_two_objects_share_stays_until_both_are_gone() -> None:
    table = NodeTable()
    many: Objects = {str(number): (node(number),) for number in range(100)}
    table.replace(None, {**many, "twin": (node(5),)})
    assert len(table.replace(None, many)) == 100
    del many["5"]
    assert len(table.replace(None, {**many, "twin": (node(5),)})) == 100
    assert len(table.replace(None, many)) == 99
