"""Registry `static`: nodes listed in the configuration, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pymicro.base.errors import ConfigError
from pymicro.base.findings import Finding
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, listed, shortened
from pymicro.base.suggest import did_you_mean
from pymicro.nodes.listed import listed_node
from pymicro.nodes.node import EMPTY, Node, NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["StaticRegistry"]

log = logger("pymicro.registry.static")


def _bad(entry: str, why: str) -> ConfigError:
    return ConfigError(
        f"registry_address of registry static: {excerpt(entry)}: {why} "
        "(each entry is service=host:port, such as greeter=10.0.0.1:8080 or greeter=[::1]:8080)"
    )


def _node(entry: str) -> Node:
    service, equals, text = (part.strip() for part in entry.partition("="))
    if not equals:
        raise _bad(entry, "there is no =")
    if not service:
        raise _bad(entry, "the service's name is missing")
    try:
        return listed_node(service, text)
    except ValueError as exc:
        raise _bad(entry, str(exc)) from None


class StaticRegistry:
    """The nodes listed in `registry_address`, for as long as the process runs.

    Each entry is `greeter=10.0.0.1:8080`; a service may have several. A host may be a
    name: it is resolved when a client dials it. Registering changes nothing.

    Raises:
        ConfigError: An entry cannot be used, or is there twice.
    """

    name = "static"
    drain_delay = 0.0
    tells_health = False

    def __init__(self, config: Config) -> None:
        listed: dict[str, dict[str, Node]] = {}
        for entry in config.registry_address:
            node = _node(entry)
            of_service = listed.setdefault(node.service, {})
            if node.address in of_service:
                raise _bad(entry, f"{shortened(node.service)} at {node.address} is listed twice")
            of_service[node.address] = node
        self._sets = {service: NodeSet.of(nodes.values()) for service, nodes in listed.items()}
        self._told = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def describe(self) -> str:
        """`registry static (3 nodes of 2 services)`."""
        nodes = sum(map(len, self._sets.values()))
        return (
            f"registry static ({nodes} node{'s' * (nodes != 1)} "
            f"of {len(self._sets)} service{'s' * (len(self._sets) != 1)})"
        )

    def advertised_host(self) -> str:
        """127.0.0.1; nobody reads it, since this registry publishes nothing."""
        return "127.0.0.1"

    async def register(self, node: Node) -> None:
        """Publish nothing, and say so once."""
        if not self._told:
            self._told = True
            log.info(
                "registry static publishes nothing: callers find %s only if they list %s=%s themselves",
                node.service,
                node.service,
                node.address,
            )

    async def deregister(self, node: Node) -> None:
        """Do nothing: `register` published nothing."""

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The listed nodes of `service`, once; a service that is not listed has none."""
        yield self._sets.get(service, EMPTY)
        await asyncio.Event().wait()  # nothing will ever change

    async def services(self) -> list[str]:
        """Names of the listed services, sorted."""
        return sorted(self._sets)

    def known_services(self) -> list[str]:
        """The same at once."""
        return sorted(self._sets)

    async def diagnose(self, service: str) -> AsyncGenerator[Finding, None]:
        """Whether `service` is listed; its nodes may be anywhere."""
        yield Finding("registry", "ok", f"{self.describe()}: {listed(sorted(self._sets)) or 'nobody'}")
        if service and service not in self._sets:
            near = did_you_mean(service, sorted(self._sets))
            yield Finding(
                "nodes",
                "problem",
                f"registry_address lists no node of {service}{near}",
                f"add {service}=HOST:PORT to registry_address",
            )
