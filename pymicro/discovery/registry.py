"""The contract of registries: who is there, and that we are.

For authors of plug-ins: all that a registry needs of pymicro is here. `docs/plugins.md` shows one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pymicro.base.errors import ConfigError, PluginError, RegistryError
from pymicro.base.findings import Finding
from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
from pymicro.settings.config import Config

__all__ = [
    "Config",
    "ConfigError",
    "Diagnosable",
    "Endpoint",
    "Finding",
    "Node",
    "NodeSet",
    "PluginError",
    "Registry",
    "RegistryError",
    "Value",
]


class Registry(Protocol):
    """Knows the nodes of every service. Built as `Registry(config)`.

    Building one does no I/O. Each of its users enters it before using it and
    leaves it afterwards; it may hold tasks and files of its own from the first
    one's coming to the last one's going.

    Attributes:
        name: As it is chosen by, such as `local`.
        drain_delay: Seconds watchers elsewhere need to see a node leave: what a
            service waits between deregistering and stopping.

    One whose watchers need a moment although its `drain_delay` is 0 may have
    `notice`, in seconds: a service that is being called waits until no call has
    come for so long, one that is not stops at once.
    """

    name: str
    drain_delay: float

    async def __aenter__(self) -> Self:
        """Get ready.

        Raises:
            RegistryError: It cannot work at all here (a folder of someone else, say).
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give up everything held, with the last user. Nodes still registered from here are deregistered."""
        ...

    def describe(self) -> str:
        """Where it looks, for messages: `registry local (/tmp/pymicro-0)`."""
        ...

    def advertised_host(self) -> str:
        """The host under which a node of this process is reached by this registry's readers."""
        ...

    async def register(self, node: Node) -> None:
        """Make `node` known, or repair and renew it: called again each register_interval.

        Raises:
            RegistryError: It could not be written; the caller tries again.
            ConfigError: It never can be (a name the registry cannot carry, say);
                a service that starts ends with this.
        """
        ...

    async def deregister(self, node: Node) -> None:
        """Take `node` back; one that is not there is no error.

        Raises:
            RegistryError: It could not be taken back.
        """
        ...

    def watch(self, service: str) -> AsyncIterator[NodeSet]:
        """All nodes of `service`, now and after each change, until the iterator is closed.

        The first set comes as soon as it is known, an empty one included. Each
        set is whole. The same set may be yielded again, which says that it was
        still so at that moment.

        Raises:
            RegistryError: The registry could not be asked. The caller keeps the
                last set and watches again.
        """
        ...

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted.

        Raises:
            RegistryError: The registry could not be asked, or cannot list.
        """
        ...


@runtime_checkable
class Diagnosable(Protocol):
    """A registry that can say more than "not found": what `pymicro doctor` asks for."""

    def diagnose(self, service: str) -> AsyncIterator[Finding]:
        """Why `service` is or is not found here: each thing looked at, in the order of looking.

        Entered like any other use. What makes the next check pointless ends it;
        an error is a finding, never raised. With no service (an empty string)
        only what concerns all of them.
        """
        ...
