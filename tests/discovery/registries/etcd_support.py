"""What the tests of registry `etcd` share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymicro.discovery.registries.etcd import EtcdRegistry, EtcdTiming
from pymicro.nodes.node import Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import closed, expect

__all__ = ["PATIENCE", "QUICK", "ROOT", "Watcher", "etcd_registry", "node", "record", "until", "watching"]

PATIENCE = 30.0
ROOT = "/micro/registry/"

# Silence and outages are noticed within some seconds.
QUICK = EtcdTiming(
    call=2.0,
    attempt=1.5,
    connect=1.0,
    ping=5.0,  # etcd permits no less
    ping_timeout=2.0,
    progress=0.3,
    progress_timeout=1.0,
    grace=0.3,
    backoff_maximum=0.5,
    learn=3600.0,
)


def etcd_registry(*addresses: str, timing: EtcdTiming | None = QUICK, **settings: Any) -> EtcdRegistry:
    """A registry that asks these members."""
    return EtcdRegistry(load({"registry_address": addresses, **settings}, environ={}), timing=timing)


def node(number: int = 1, service: str = "greeter", **changes: Any) -> Node:
    fields = {
        "id": f"{service}-{number}",
        "address": f"127.0.0.1:{20000 + number}",
        "service": service,
        "version": "1",
        "metadata": {"protocol": "grpc"},
        **changes,
    }
    return Node(**fields)


def record(nodes: Sequence[dict[str, Any]] | None, service: str = "greeter", **changes: Any) -> str:
    """A value as go-micro writes it, compact and with every key, unless `changes` says otherwise."""
    document: dict[str, Any] = {
        "name": service,
        "version": "latest",
        "metadata": None,
        "endpoints": None,
        "nodes": nodes,
        **changes,
    }
    return json.dumps(document, separators=(",", ":"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # a directory's error and age have no event
            await asyncio.sleep(0.01)


class Watcher:
    """Reads one watch of a registry."""

    def __init__(self, sets: AsyncIterator[NodeSet], service: str) -> None:
        self.sets = sets
        self.service = service

    async def sees(self, *nodes: Node) -> int:
        """Read until the set is exactly this; returns how many sets that took."""
        return await expect(self.sets, nodes, within=PATIENCE, service=self.service)

    async def sees_addresses(self, addresses: Iterable[str]) -> None:
        """Read until the nodes are at these addresses."""
        wanted = sorted(addresses)
        async for nodes in self.sets:
            if sorted(one.address for one in nodes) == wanted:
                return
        raise AssertionError("the watch ended")


@asynccontextmanager
async def watching(registry: EtcdRegistry, service: str = "greeter") -> AsyncIterator[Watcher]:
    """A watch, closed at the end."""
    sets = registry.watch(service)
    try:
        yield Watcher(sets, service)
    finally:
        await closed(sets)
