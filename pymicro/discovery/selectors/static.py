"""Selector `static`: a service is a name that grpc-core resolves and balances over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.printable import excerpt
from pymicro.nodes.address import is_dns_name
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from pymicro.discovery.selector import NodeSource
    from pymicro.settings.config import Config

__all__ = ["StaticSelector"]

# go-micro's static selector reads these two, without the prefix MICRO_.
DOMAIN_VARIABLE = "STATIC_SELECTOR_DOMAIN_NAME"
PORT_VARIABLE = "STATIC_SELECTOR_PORT_NUMBER"
DEFAULT_PORT = 8080


class StaticSelector:
    """One node for each service: `<service>[.<domain>]:<port>`, whatever runs there.

    Use it for Kubernetes Services and the like, which find the nodes themselves. Domain and
    port are `STATIC_SELECTOR_DOMAIN_NAME` and `STATIC_SELECTOR_PORT_NUMBER` (8080) in the
    environment, as in go-micro. The registry is never asked.

    Calls take the name's addresses in turn: all pods of a headless Service, the one
    ClusterIP of another. The DNS does not report changes. grpc-core asks it again when a
    connection ends or cannot be made, at most every 5 s. So clients see at once that a node
    has left, but see a new one only after a connection ends. Set the servers'
    `max_connection_age`, which ends connections regularly.

    Args:
        config: As every selector has it; not read.
        source: As every selector has it; not used.
        environ: The environment; both variables are read when the selector is built.

    Raises:
        ConfigError: `STATIC_SELECTOR_PORT_NUMBER` is no port.
    """

    name = "static"
    uses_registry = False

    def __init__(
        self, config: Config, source: NodeSource, *, environ: Mapping[str, str] | None = None
    ) -> None:
        environ = os.environ if environ is None else environ
        self._domain = environ.get(DOMAIN_VARIABLE, "").strip().lstrip(".")
        text = environ.get(PORT_VARIABLE, "").strip() or str(DEFAULT_PORT)
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            raise ConfigError(f"{PORT_VARIABLE}: {excerpt(text)} is no port (1 to 65535)")
        self._port = int(text)

    def _host(self, service: str) -> str:
        return f"{service}.{self._domain}" if self._domain else service

    def describe(self, service: str) -> str:
        """`DNS name greeter.staging:8080`."""
        return f"DNS name {self._host(service)}:{self._port}"

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The one node, once.

        Raises:
            RegistryError: `service` cannot be a DNS name.
        """
        host = self._host(service)
        if not is_dns_name(host):
            raise RegistryError(
                f"selector static asks the DNS for a service by its name, and {excerpt(service)} is no DNS "
                "name (letters, digits and - in parts of at most 63, with dots between them): "
                "rename the service, or use --selector registry"
            )
        address = f"{host}:{self._port}"
        yield NodeSet((Node(id=address, address=address, service=service, kind="name"),))
        await asyncio.Event().wait()  # the name stays; grpc-core resolves it

    def refresh(self, service: str) -> None:
        """Do nothing: grpc-core resolves the name again itself."""
