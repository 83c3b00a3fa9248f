# test_plugins.py
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from my_plugins.balancer import Priority
from my_plugins.registry import FileRegistry
from my_plugins.selector import StableSelector
from pymicro import Config, Node, NodeSet, RegistryError
from pymicro.balancing.balancer import Balancer, CallInfo
from pymicro.discovery.registry import Registry
from pymicro.discovery.selector import Selector
from pymicro.testing import BalancerContract, RegistryContract, SelectorContract, node_source

NODES = [Node("a", "127.0.0.1:1", "greeter"), Node("b", "127.0.0.1:2", "greeter")]


class TestFileRegistry(RegistryContract):
    listed = NODES
    no_register = "nodes come from the file"
    no_crash = "no process owns a node"
    no_outage = "the suite's outage registers nodes; the test below has one"

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "nodes.json"
        self.write(*NODES)

    def write(self, *nodes: Node) -> None:
        self.path.write_text(json.dumps({"greeter": [{"id": n.id, "address": n.address} for n in nodes]}))

    def make(self) -> Registry:
        return FileRegistry(Config(registry_address=(str(self.path),)))

    async def test_a_change_of_the_file_is_seen_and_a_mistake_is_an_error(self) -> None:
        sets = self.make().watch("greeter")
        assert await anext(sets) == NodeSet.of(NODES)
        self.write(NODES[0])
        assert await anext(sets) == NodeSet.of(NODES[:1])
        self.path.write_text("no JSON")
        with pytest.raises(RegistryError, match=r"nodes\.json"):
            await anext(sets)


class TestStableSelector(SelectorContract):
    unknown = "nobody"

    @asynccontextmanager
    async def make(self) -> AsyncIterator[Selector]:
        canary = Node("c", "127.0.0.1:3", "greeter", metadata={"stage": "canary"})
        async with node_source(*NODES, canary) as source:
            yield StableSelector(Config(), source)

    async def test_canaries_are_left_out(self) -> None:
        async with self.make() as selector:
            assert await anext(selector.watch("greeter")) == NodeSet.of(NODES)


class TestPriority(BalancerContract):
    evenness = 1.2  # chance alone

    def make(self) -> Balancer:
        return Priority(Config())

    def test_the_second_choice_serves_when_the_first_was_tried(self) -> None:
        first, second = NODES[0], Node("b", "127.0.0.1:2", "greeter", metadata={"priority": "1"})
        balancer = self.make()
        balancer.update(NodeSet.of([first, second]), NodeSet.of([first, second]))
        assert {balancer.pick(CallInfo("/a.B/C")).node for _ in range(50)} == {first}
        assert balancer.pick(CallInfo("/a.B/C", frozenset({first.key}))).node == second
