"""Selector `registry`, the default: a service's nodes are those its registry lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pymicro.nodes.node import NodeSet

if TYPE_CHECKING:
    from pymicro.discovery.selector import NodeSource
    from pymicro.settings.config import Config

__all__ = ["RegistrySelector"]


class RegistrySelector:
    """Passes on the source's sets; all users of one service share the source's watch."""

    name = "registry"
    uses_registry = True

    def __init__(self, config: Config, source: NodeSource) -> None:
        self._source = source

    def describe(self, service: str) -> str:
        """The registry's last answer: `registry local (/tmp/x) listed 0 nodes 2.1 s ago`."""
        return self._source.describe_state(service)

    def watch(self, service: str) -> AsyncIterator[NodeSet]:
        """The source's sets. Never raises RegistryError: the source itself tries again."""
        return self._source.watch(service)

    def refresh(self, service: str) -> None:
        """Do nothing: the registry's watch reports each change by itself."""
