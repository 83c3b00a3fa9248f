"""Every built-in registry passes the contract suite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

import pytest

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local.json import dump_node
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.registries.static import StaticRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from pymicro.testing.registry import RegistryContract
from tests.discovery.registries.owners import owner

OWNER = """
import asyncio, sys
from pymicro.settings.config import load
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local.json import load_node

async def main(folder, document):
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        await registry.register(load_node(document.encode()))
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class TestMemory(RegistryContract):
    no_crash = "its nodes are in this process"
    no_outage = "it is in this process, like its readers"

    @pytest.fixture(autouse=True)
    def _address(self, request: pytest.FixtureRequest) -> None:
        self.address = request.node.nodeid

    def make(self) -> MemoryRegistry:
        return MemoryRegistry(load({"registry_address": [self.address]}, environ={}))


class TestStatic(RegistryContract):
    no_register = "its nodes are the ones listed in its settings"
    no_crash = "its nodes stay listed whatever happens to them"
    no_outage = "its nodes are in its settings"
    listed: ClassVar[tuple[Node, ...]] = tuple(
        Node(id=address, address=address, service="greeter")
        for address in ("10.0.0.1:8080", "10.0.0.2:8080", "[::1]:8080")
    )

    def make(self) -> StaticRegistry:
        entries = [f"greeter={node.address}" for node in self.listed]
        return StaticRegistry(load({"registry_address": entries}, environ={}))


class TestLocal(RegistryContract):
    patience = 15.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "registry"

    def make(self) -> LocalRegistry:
        return LocalRegistry(load({"registry_address": [str(self.folder)]}, environ={}))

    def owner(self, node: Node) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return owner("-c", OWNER, str(self.folder), dump_node(node))

    async def break_source(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    async def mend_source(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_name("away").rename(self.folder)


def test_a_record_is_one_json_object_with_all_of_a_node() -> None:
    node = Node("id", "[::1]:80", "größe", "1", {"a": "b"})
    assert json.loads(dump_node(node)) == {
        "id": "id",
        "address": "[::1]:80",
        "service": "größe",
        "version": "1",
        "metadata": {"a": "b"},
        "endpoints": [],
    }
