"""What a service's nodes say about themselves by reflection, for the commands that show it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymicro.calling.peers.reflection import NotReflected, ReflectionClient
from pymicro.rpc.schema import Schema, SchemaError

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from pymicro.client import Client

__all__ = ["INFRASTRUCTURE", "Described", "reflect"]

# Services that a server has besides its own.
INFRASTRUCTURE = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "grpc.admin.")


@dataclass(frozen=True, slots=True)
class Described:
    """The proto services of a server.

    Attributes:
        names: Their full names, sorted.
        hidden: Names of services that the caller did not ask for.
        schema: All files that the server gave.
    """

    names: Sequence[str]
    hidden: Sequence[str]
    schema: Schema = field(default_factory=Schema)

    def services(self) -> dict[str, ServiceDescriptor | None]:
        """Each service; None for one that the server names but does not describe."""
        known = {service.full_name: service for service in self.schema.services()}
        return {name: known.get(name) for name in self.names}


async def reflect(client: Client, service: str, *, everything: bool, symbol: str = "") -> Described:
    """Ask the nodes of a service about their proto services.

    Each question may be answered by another node, like any call.

    Args:
        client: Open.
        service: The service to ask.
        everything: Whether to include health, reflection and the like.
        symbol: Something else to find out about; it is no error if the server does not know it.

    Raises:
        NoReflection: The server offers none.
        ReflectionError: Its answers cannot be used.
        RpcError: The server cannot be asked.
    """
    timeout = client.config.client_request_timeout or None
    reflection = ReflectionClient(client.channel(service), timeout=timeout)
    found = await reflection.list_services()
    hidden = [] if everything else [name for name in found if name.startswith(INFRASTRUCTURE)]
    described = Described([name for name in found if name not in hidden], hidden)
    for name in described.names:
        # Some servers name a service whose files they do not have.
        with suppress(NotReflected, SchemaError):
            described.schema.add(await reflection.files_containing(name))
    if symbol:
        with suppress(NotReflected, SchemaError):
            described.schema.add(await reflection.files_containing(symbol))
    return described
