"""The contract of selectors: from a service's name to its node sets.

For authors of plug-ins: this module has all of pymicro that a selector needs. `docs/plugins.md` shows one.
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
    """The registry's lists; every selector is built with one.

    Only a selector with `uses_registry` may use it: it is open for no other. All users
    that watch one service share one watch of the registry.
    """

    def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, as soon as they are known and after each change, until it is closed.

        It never raises RegistryError: while the registry fails, the last set stands.
        """
        ...

    def describe_state(self, service: str) -> str:
        """The registry's last answer, for messages: `registry local (/tmp/x) listed 0 nodes 2.1 s ago`."""
        ...


class Selector(Protocol):
    """Turns a service's name into node sets. Built as `Selector(config, source)`.

    Attributes:
        name: The name to choose it by, such as `registry`.
        uses_registry: Whether it asks the `NodeSource` it is built with; if not, the
            client does not even open the registry.
    """

    name: str
    uses_registry: bool

    def describe(self, service: str) -> str:
        """The question it asks for this service, for messages: `DNS name greeter.default`."""
        ...

    def watch(self, service: str) -> AsyncIterator[NodeSet]:
        """Whole node sets, now and after each change, until the iterator is closed.

        Raises:
            RegistryError: The source could not be asked; the caller keeps the
                last set and watches again.
        """
        ...

    def refresh(self, service: str) -> None:
        """Hint that nodes of `service` could not be reached: look again soon. Never waits."""
        ...
