"""The contract of registries: they list the nodes of services, and publish ours.

For authors of plug-ins: this module has all of pymicro that a registry needs. `docs/plugins.md` shows one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pymicro.base.errors import ConfigError, PluginError, RegistryError
from pymicro.base.findings import Finding
from pymicro.base.watches import Watches, WatchRecord
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
    "WatchRecord",
    "Watches",
]


class Registry(Protocol):
    """Knows the nodes of every service. Built as `Registry(config)`.

    Building one does no I/O. Each user enters it before using it and leaves it afterwards.
    From the first user's coming to the last one's going it may hold tasks and files of
    its own.

    Attributes:
        name: The name to choose it by, such as `local`.
        drain_delay: Seconds until watchers elsewhere see that a node has left: a service
            waits so long between deregistering and stopping.

    A registry whose watchers need a moment although its `drain_delay` is 0 may also have
    `notice`, in seconds. A service that is being called then waits until no call has come
    for so long; a service that nobody calls stops at once.

    A registry whose nodes stay when they are not well, since nobody takes them out, may have
    `tells_health = False`. Clients then watch the health (grpc.health.v1) of each node that they
    are connected to. A selector that uses no registry may have it too.

    A registry that knows services without asking anybody may have `known_services()`, which gives their
    names and never waits: an error about a service without nodes names the one that was meant.

    A registry whose sets come over a watch that can break may have `watches`, a `Watches`, in which
    each of its watches writes down how it fares. The page `/nodes` and `pymicro_registry_relists_total`
    are read from it.
    """

    name: str
    drain_delay: float

    async def __aenter__(self) -> Self:
        """Get ready.

        Raises:
            RegistryError: It cannot work here at all (the folder belongs to somebody else, say).
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give up everything held, with the last user. Deregister nodes still registered from here."""
        ...

    def describe(self) -> str:
        """The place it looks in, for messages: `registry local (/tmp/pymicro-0)`."""
        ...

    def advertised_host(self) -> str:
        """The host under which this registry's readers reach a node of this process."""
        ...

    async def register(self, node: Node) -> None:
        """Make `node` known, or repair and renew it: called again each register_interval.

        Raises:
            RegistryError: The node could not be written; the caller tries again.
            ConfigError: The node can never be written (the registry cannot carry its name,
                say); a service that starts fails with this.
        """
        ...

    async def deregister(self, node: Node) -> None:
        """Take `node` back; it is no error if the node is not there.

        Raises:
            RegistryError: The node could not be taken back.
        """
        ...

    def watch(self, service: str) -> AsyncIterator[NodeSet]:
        """All nodes of `service`, now and after each change, until the iterator is closed.

        The first set comes as soon as it is known, even if it is empty. Each set is whole.
        The same set may be yielded again: it was still so at that moment.

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
    """A registry that can say more than "not found"; `pymicro doctor` asks it."""

    def diagnose(self, service: str) -> AsyncIterator[Finding]:
        """Why `service` is or is not found here: one finding for each check, in order.

        It is entered like any other use. If a finding makes the next check pointless, the
        iterator ends. An error is a finding, never raised. Without a service (an empty
        string) it gives only findings that concern all services.
        """
        ...
