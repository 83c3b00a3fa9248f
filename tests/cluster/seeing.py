"""What a process sees of one service through a registry, as its calls would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pymicro.discovery.directory import Directory
from pymicro.discovery.registry import Registry
from tests.cluster.plane import until


class Seen:
    """What a directory over a registry says of one service."""

    def __init__(self, directory: Directory, service: str) -> None:
        self._directory = directory
        self._service = service

    @property
    def addresses(self) -> set[str] | None:
        nodes = self._directory.state(self._service).nodes
        return None if nodes is None else {node.address for node in nodes}

    @property
    def error(self) -> str:
        return self._directory.state(self._service).error or ""

    @property
    def age(self) -> float:
        age = self._directory.state(self._service).age
        assert age is not None, "nothing has been seen yet"
        return age

    async def see(self, *addresses: str, timeout: float = 40.0) -> None:
        """Wait for exactly these."""
        wanted = set(addresses)
        await until(f"it sees {sorted(wanted)}", lambda: self.addresses == wanted and not self.error, timeout)


@contextlib.asynccontextmanager
async def seeing(registry: Registry, service: str = "greeter") -> AsyncIterator[Seen]:
    """Enter the registry and watch the service."""

    async def watch(directory: Directory) -> None:
        async for _ in directory.watch(service):
            pass

    async with registry, Directory(registry) as directory:
        watcher = asyncio.create_task(watch(directory))
        try:
            yield Seen(directory, service)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
