# my_plugins/selector.py
"""Selector `stable`: what the registry lists, without nodes that say `stage: canary`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pymicro.discovery.selector import Config, NodeSet, NodeSource


class StableSelector:
    name = "stable"
    uses_registry = True  # so the client opens the registry, and the source may be asked

    def __init__(self, config: Config, source: NodeSource) -> None:
        self._source = source

    def describe(self, service: str) -> str:
        return f"{self._source.describe_state(service)}, without canaries"

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        async with aclosing(self._source.watch(service)) as sets:
            async for nodes in sets:
                yield NodeSet.of(node for node in nodes if node.metadata.get("stage") != "canary")

    def refresh(self, service: str) -> None:
        """The registry tells of each change unasked."""
