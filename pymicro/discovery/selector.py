"""The contract of selectors: from a service's name to its node sets.

For authors of plug-ins: all that a selector needs of pymicro is here. `docs/plugins.md` shows one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from pymicro.base.errors import ConfigError, PluginError, RegistryError
from pymicro.nodes.node import Node, NodeSet
from pymicro.settings.config import Config

__all__ = [
    "Config",
    "ConfigError",
    "Node",
    "NodeSet",
    "NodeSource",
    "PluginError",
    "RegistryError",
    "Selector",
]


class NodeSource(Protocol):
    """What the registry lists, as every selector is handed it.

    Only a selector with `uses_registry` may ask: the source is open for no other.
    All who ask for one service share one watch of the registry.
    """

    def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, as soon as they are known and after each change, until it is closed.

        It never raises RegistryError: while the registry fails, the last set stands.
        """
        ...

    def describe_state(self, service: str) -> str:
        """What the registry said last, for messages: `registry local (/tmp/x) listed 0 nodes 2.1 s ago`."""
        ...


class Selector(Protocol):
    """Turns a service's name into node sets. Built as `Selector(config, source)`.

    Attributes:
        name: As it is chosen by, such as `registry`.
        uses_registry: Whether it asks the `NodeSource` it is built with; the client
            does not even open the registry for one that does not.
    """

    name: str
    uses_registry: bool

    def describe(self, service: str) -> str:
        """What is asked for this service, for messages: `DNS name greeter.default`."""
        ...

    def watch(self, service: str) -> AsyncIterator[NodeSet]:
        """Whole node sets, now and after each change, until the iterator is closed.

        Raises:
            RegistryError: The source could not be asked; the caller keeps the
                last set and watches again.
        """
        ...

    def refresh(self, service: str) -> None:
        """A hint that nodes of `service` could not be reached: look again soon. Never waits."""
        ...
