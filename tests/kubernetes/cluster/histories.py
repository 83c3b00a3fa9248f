"""All that watchers of many services were shown, and whether it can have been so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager

from pymicro.base.tasks import Tasks
from pymicro.discovery.directory import Directory
from pymicro.discovery.registry import Registry

__all__ = ["PATIENCE", "Histories"]

PATIENCE = 20.0


class Histories:
    """Follows services through a directory, as clients do, and remembers every set.

    Attributes:
        shown: Service → all sets of hosts that were shown, in order.
    """

    def __init__(self, directory: Directory, tasks: Tasks) -> None:
        self.shown: dict[str, list[frozenset[str]]] = {}
        self.directory = directory
        self._tasks = tasks
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def of(cls, registry: Registry, *services: str) -> AsyncIterator[Histories]:
        """Enter the registry and follow these services."""
        async with registry, Directory(registry, linger=0.0) as directory, Tasks("histories") as tasks:
            histories = cls(directory, tasks)
            for service in services:
                histories.follow(service)
            yield histories

    def follow(self, service: str) -> asyncio.Task[None]:
        """Follow one more, until the task is cancelled."""
        self.shown[service] = []
        return self._tasks.start(self._follow(service), service)

    async def _follow(self, service: str) -> None:
        async with aclosing(self.directory.watch(service)) as sets:
            async for nodes in sets:
                hosts = frozenset(node.address.rpartition(":")[0] for node in nodes)
                self.shown[service].append(hosts)
                news, self._news = self._news, asyncio.Event()
                news.set()

    def last(self, service: str) -> frozenset[str] | None:
        shown = self.shown[service]
        return shown[-1] if shown else None

    async def see(self, service: str, *hosts: str) -> None:
        """Wait for exactly these."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self.last(service) != set(hosts):
                    await self._news.wait()
        except TimeoutError:
            said = self.directory.describe_state(service)
            raise AssertionError(
                f"{service}: wanted {sorted(hosts)}, last {sorted(self.last(service) or ())}: {said}"
            ) from None

    def check(self, *staying: str) -> None:
        """Nobody was shown an empty set, one without the hosts that stay, or a host that came back.

        Each pod of the test comes once and goes at most once.
        """
        for service, shown in self.shown.items():
            gone: set[str] = set()
            before: Iterable[str] = ()
            for number, hosts in enumerate(shown):
                assert hosts, f"{service}: set {number} is empty"
                gone.update(set(before) - hosts)
                assert not hosts & gone, f"{service}: {sorted(hosts & gone)} came back in set {number}"
                missing = {host for host in staying if any(host in one for one in shown)} - hosts
                assert not missing, f"{service}: set {number} lacks {sorted(missing)}"
                before = hosts

    def errors(self) -> list[str]:
        """What failed and does so still."""
        return [error for service in self.shown if (error := self.directory.state(service).error)]
