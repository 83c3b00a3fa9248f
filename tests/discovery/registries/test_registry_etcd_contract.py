"""Registry `etcd` passes the contract suite, on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from pymicro.discovery.registries.etcd import EtcdRegistry
from pymicro.nodes.node import Node
from pymicro.nodes.record import dump_record
from pymicro.settings.config import load
from pymicro.testing.registry import RegistryContract
from tests.discovery.registries.owners import owner
from tests.etcd_server import Etcd

# The least lease that etcd gives.
TTL = 2

OWNER = """
import asyncio, sys
from pymicro.settings.config import load
from pymicro.nodes.record import load_record
from pymicro.discovery.registries.etcd import EtcdRegistry

async def main(address, ttl, document):
    settings = {"registry_address": [address], "register_ttl": int(ttl), "register_interval": 0}
    async with EtcdRegistry(load(settings, environ={})) as registry:
        await registry.register(load_record(document).nodes[0])
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class TestEtcd(RegistryContract):
    patience = 10.0
    etcd: Etcd

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _etcd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Etcd(tmp_path_factory.mktemp("etcd")) as cls.etcd:
            yield

    @pytest.fixture(autouse=True)
    def _emptied(self) -> None:
        self.etcd.delete_all("/micro/registry/")

    def make(self) -> EtcdRegistry:
        return EtcdRegistry(load({"registry_address": [self.etcd.address]}, environ={}))

    def owner(self, node: Node) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return owner("-c", OWNER, self.etcd.address, str(TTL), dump_record([node]))

    async def break_source(self) -> None:
        await asyncio.to_thread(self.etcd.kill)

    async def mend_source(self) -> None:
        await asyncio.to_thread(self.etcd.start)
