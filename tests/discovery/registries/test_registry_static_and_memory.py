"""Registries `static` and `memory`: what is their own."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pymicro.base.errors import ConfigError
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.registries.static import StaticRegistry
from pymicro.nodes.node import EMPTY, Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import expect, first

PATIENCE = 5.0


def static(*entries: str) -> StaticRegistry:
    return StaticRegistry(load({"registry_address": entries}, environ={}))


def node(number: int) -> Node:
    return Node(id=f"n{number}", address=f"127.0.0.1:{number}", service="greeter")


# static


async def test_static_lists_each_service_under_its_addresses() -> None:
    registry = static("greeter=10.0.0.1:8080", "greeter=[::1]:8080", " größe = cache.example.com:1 ")
    async with registry:
        found = await first(registry.watch("greeter"), within=PATIENCE)
        assert {(one.id, one.address, one.kind) for one in found} == {
            ("10.0.0.1:8080", "10.0.0.1:8080", "address"),
            ("[::1]:8080", "[::1]:8080", "address"),
        }
        (other,) = await first(registry.watch("größe"), within=PATIENCE)
        assert other.address == "cache.example.com:1"
        assert await first(registry.watch("nobody"), within=PATIENCE) == EMPTY
        assert await registry.services() == ["greeter", "größe"]
    assert registry.describe() == "registry static (3 nodes of 2 services)"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("greeter", "no ="),
        ("=10.0.0.1:80", "name is missing"),
        ("greeter=10.0.0.1", "no port"),
        ("greeter=10.0.0.1:http", "'http' is no port"),
        ("greeter=10.0.0.1:0", "0 is no port"),
        ("greeter=10.0.0.1:65536", "no port"),
        ("greeter=:80", "host is missing"),
        ("greeter=unix:123", "write unix.:123"),
        ("greeter=", "no port"),
        ("greeter=::1:80", "no port"),
        ("greeter=[::1:80", "closing bracket"),
        ("greeter=[localhost]:80", "no IPv6 address"),
        ("greeter=a b:80", "no host"),
        ("greeter=http://a:80", "no port"),
    ],
)
def test_static_refuses_a_bad_entry_and_names_it(entry: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        static("other=10.0.0.1:1", entry)
    assert repr(entry) in str(refusal.value)
    assert "greeter=10.0.0.1:8080" in str(refusal.value)  # what would be right


def test_static_refuses_a_node_listed_twice() -> None:
    with pytest.raises(ConfigError, match=r"greeter at 10\.0\.0\.1:80 is listed twice"):
        static("greeter=10.0.0.1:80", "other=10.0.0.1:80", "greeter=10.0.0.1:80")


async def test_static_says_once_that_it_publishes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with static() as registry:
        for _ in range(3):
            await registry.register(node(1))
        assert await registry.services() == []
    (line,) = [record.getMessage() for record in caplog.records if "publishes nothing" in record.getMessage()]
    assert "greeter=127.0.0.1:1" in line


# memory


async def test_memory_instances_made_in_code_have_nodes_of_their_own() -> None:
    async with MemoryRegistry() as one, MemoryRegistry() as two:
        await one.register(node(1))
        assert await one.services() == ["greeter"]
        assert await two.services() == []


async def test_memory_chosen_by_name_shares_its_nodes_by_address() -> None:
    def named(address: str) -> MemoryRegistry:
        return MemoryRegistry(load({"registry_address": address}, environ={}))

    async with named("") as one, named("") as two, named("test-elsewhere") as elsewhere:
        await one.register(node(1))
        assert await two.services() == ["greeter"]
        assert await elsewhere.services() == []
    async with named("") as later:
        assert await later.services() == []


async def test_a_memory_registry_deregisters_only_what_is_still_its_own() -> None:
    one, two = (MemoryRegistry(load({"registry_address": "test-own"}, environ={})) for _ in range(2))
    async with two:
        async with one:
            await one.register(node(1))
            taken_over = Node(id="n1", address="127.0.0.1:9", service="greeter")
            await two.register(taken_over)
            await one.register(node(2))
            await two.deregister(node(2))  # the other's
        sets = two.watch("greeter")
        assert await first(sets, within=PATIENCE) == NodeSet.of([taken_over])
        await sets.aclose()


async def test_a_memory_registry_keeps_nothing_of_a_service_that_is_over() -> None:
    registry = MemoryRegistry()
    async with registry:
        for number in range(10):
            sets = registry.watch(f"service-{number}")
            await first(sets, within=PATIENCE)
            await sets.aclose()
        await registry.register(node(1))
        await registry.deregister(node(1))
    assert registry._store._entries == {}


async def test_a_memory_registry_gathers_what_happens_in_one_turn_of_the_loop() -> None:
    registry = MemoryRegistry()
    async with registry:
        sets = registry.watch("greeter")
        await first(sets, within=PATIENCE)
        reading = asyncio.ensure_future(expect(sets, map(node, range(1, 101)), within=PATIENCE))
        for number in range(1, 101):
            await registry.register(node(number))
        assert await reading == 1
        await sets.aclose()
