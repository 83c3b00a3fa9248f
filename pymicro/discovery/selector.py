"""The contract of selectors: from a service's name to its node sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from pymicro.nodes.node import NodeSet

__all__ = ["Selector"]


class Selector(Protocol):
    """Turns a service's name into node sets. Built as `Selector(config, directory)`.

    Attributes:
        name: As it is chosen by, such as `registry`.
        uses_registry: Whether it asks the directory it is built with; the client
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
