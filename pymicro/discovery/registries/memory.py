"""Registry `memory`: nodes of this process only, for tests and for services in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pymicro.base.findings import Finding
from pymicro.base.latest import Latest
from pymicro.base.printable import listed
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["MemoryRegistry"]


class _ServiceNodes:
    """One service's nodes by id, and the number of its watchers."""

    __slots__ = ("changed", "nodes", "owners", "watchers")

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.owners: dict[str, MemoryRegistry] = {}
        self.watchers = 0
        # Carries the live dictionary: each reader builds its own set, so that registering
        # n nodes does not build n sets.
        self.changed: Latest[dict[str, Node]] = Latest()
        self.changed.set(self.nodes)


class _Store:
    """The services that have nodes or watchers; the registries of one address share them."""

    def __init__(self) -> None:
        self._entries: dict[str, _ServiceNodes] = {}

    def entry(self, service: str) -> _ServiceNodes:
        return self._entries.setdefault(service, _ServiceNodes())

    def drop_if_idle(self, service: str) -> None:
        entry = self._entries.get(service)
        if entry is not None and not entry.nodes and not entry.watchers:
            del self._entries[service]

    def services(self) -> list[str]:
        return sorted(name for name, entry in self._entries.items() if entry.nodes)


_BY_ADDRESS: dict[str, _Store] = {}


class MemoryRegistry:
    """Nodes kept in this process. Nothing of it is visible outside.

    An instance made in code has nodes of its own: give the same instance to every
    `Service` and `Client` that shall see each other. Registries chosen by the name
    `memory` share their nodes: there is one store for each `registry_address`.

    It may be entered by several users; when the last one has left, the nodes
    still registered through this instance are deregistered. All its users run
    on one event loop.

    Args:
        config: Given if the registry is chosen by name; without it the instance has a
            store of its own.
    """

    name = "memory"
    drain_delay = 0.0

    def __init__(self, config: Config | None = None) -> None:
        self._address = ""
        if config is None:
            self._store = _Store()
        else:
            self._address = ",".join(config.registry_address)
            self._store = _BY_ADDRESS.setdefault(self._address, _Store())
        self._users = 0
        self._mine: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0:
            for service, node_id in list(self._mine):
                self._remove(service, node_id)

    def __repr__(self) -> str:
        return f"<MemoryRegistry {self.describe()!r} services={self._store.services()}>"

    def describe(self) -> str:
        """`registry memory`, with its address if it has one."""
        return f"registry memory ({self._address})" if self._address else "registry memory"

    def advertised_host(self) -> str:
        """127.0.0.1: its readers are in this process."""
        return "127.0.0.1"

    async def register(self, node: Node) -> None:
        """Make `node` known, or replace the one of the same id."""
        entry = self._store.entry(node.service)
        self._mine.add((node.service, node.id))
        entry.owners[node.id] = self
        if entry.nodes.get(node.id) != node:
            entry.nodes[node.id] = node
            entry.changed.set(entry.nodes)

    async def deregister(self, node: Node) -> None:
        """Take `node` back, if it was registered through this instance."""
        self._remove(node.service, node.id)

    def _remove(self, service: str, node_id: str) -> None:
        if (service, node_id) not in self._mine:
            return
        self._mine.discard((service, node_id))
        entry = self._store.entry(service)
        # Another instance may have registered the same id since.
        if entry.owners.get(node_id) is self:
            del entry.owners[node_id], entry.nodes[node_id]
            entry.changed.set(entry.nodes)
        self._store.drop_if_idle(service)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, now and after each change; never fails."""
        entry = self._store.entry(service)
        entry.watchers += 1
        try:
            async for nodes in entry.changed.follow():
                yield NodeSet.of(nodes.values())
        finally:
            entry.watchers -= 1
            self._store.drop_if_idle(service)

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted."""
        return self._store.services()

    def known_services(self) -> list[str]:
        """The same at once."""
        return self._store.services()

    async def diagnose(self, service: str) -> AsyncGenerator[Finding, None]:
        """The nodes here; none for the command line, which is a process of its own."""
        names = self._store.services()
        yield Finding("registry", "ok", f"{self.describe()}: {listed(names) or 'nobody'}")
        if service and service not in names:
            yield Finding(
                "nodes",
                "problem",
                f"no node of {service} in this process, and no other process can be seen with it",
                "a registry that several processes share is local, on one machine",
            )
