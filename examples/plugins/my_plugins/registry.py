# my_plugins/registry.py
"""Registry `file`: nodes that stand in a JSON file, which it reads again when it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Self

from pymicro.discovery.registry import Config, ConfigError, Node, NodeSet, RegistryError

# Seconds between two looks at the file.
INTERVAL = 0.1


class FileRegistry:
    """The file is `registry_address`: `{"greeter": [{"id": "a", "address": "10.0.0.1:8080"}]}`."""

    name = "file"
    drain_delay = 0.0  # nobody sees a node leave: the file is written by hand

    def __init__(self, config: Config) -> None:
        # No I/O here: only what the settings say is looked at.
        if len(config.registry_address) != 1:
            raise ConfigError("registry_address of registry file: name one file")
        self._path = Path(config.registry_address[0])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None  # it holds nothing; a registry with connections closes them with its last user

    def describe(self) -> str:
        return f"registry file ({self._path})"

    def advertised_host(self) -> str:
        return "127.0.0.1"

    async def register(self, node: Node) -> None:
        """Whoever writes the file says who is there."""

    async def deregister(self, node: Node) -> None:
        """Whoever writes the file says who is there."""

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        known = None
        while True:
            nodes = self._read().get(service, NodeSet())
            if nodes != known:
                known = nodes
                yield nodes
            await asyncio.sleep(INTERVAL)

    async def services(self) -> list[str]:
        return sorted(name for name, nodes in self._read().items() if nodes)

    def _read(self) -> dict[str, NodeSet]:
        try:
            document = json.loads(self._path.read_text())
            return {
                service: NodeSet.of(
                    Node(item["id"], item["address"], service, metadata=item.get("metadata", {}))
                    for item in items
                )
                for service, items in document.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            # The caller keeps the last set and watches again: a mistake in the file ends no call.
            raise RegistryError(f"{self.describe()} cannot be read: {exc!r}") from exc
