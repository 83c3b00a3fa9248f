"""What a service's nodes say about themselves by reflection, for the commands that use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymicro.base.printable import shortened
from pymicro.calling.peers.reflection import NoReflection, ReflectionClient, ReflectionError
from pymicro.cli.report import note
from pymicro.rpc.schema import Schema, SchemaError

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from pymicro.client import Client

__all__ = ["INFRASTRUCTURE", "Described", "learn", "not_described", "reflect", "tell_gaps"]

# Services that a server has besides its own.
INFRASTRUCTURE = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "grpc.admin.")


@dataclass(frozen=True, slots=True)
class Described:
    """The proto services of a server.

    Attributes:
        names: Their full names, sorted.
        hidden: Names of services that the caller did not ask for.
        reasons: Why a service is not described, by its name.
        schema: All files that the server gave.
    """

    names: Sequence[str]
    hidden: Sequence[str]
    reasons: dict[str, str] = field(default_factory=dict)
    schema: Schema = field(default_factory=Schema)

    def services(self) -> dict[str, ServiceDescriptor | None]:
        """Each service; None for one that the server names but does not describe."""
        known = {service.full_name: service for service in self.schema.services()}
        return {name: known.get(name) for name in self.names}

    def tell_what_lacks(self) -> None:
        """Print which services are not described, and which types nobody defines."""
        for name, reason in self.reasons.items():
            note(not_described(name, reason))
        tell_gaps(self.schema)


def tell_gaps(schema: Schema) -> None:
    """Print which types nobody defines."""
    for gap in schema.gaps:
        note(gap)


def not_described(name: str, reason: str) -> str:
    """That a server names a service and does not describe it, in words."""
    return f"the server names {shortened(name)} and does not describe it: {reason}"


async def learn(schema: Schema, reflection: ReflectionClient, names: Iterable[str]) -> dict[str, str]:
    """Add the files that define some symbols; for each that is not learnt the reason.

    Raises:
        NoReflection: The server offers none.
        RpcError: The server cannot be asked.
    """
    reasons = {}
    for name in names:
        try:
            schema.add(await reflection.files_containing(name))
        except NoReflection:
            raise
        except (ReflectionError, SchemaError) as exc:
            reasons[name] = str(exc)
    return reasons


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
    reasons = await learn(described.schema, reflection, described.names)
    # A file may be refused whose services are usable.
    there = described.services()
    described.reasons.update((name, reason) for name, reason in reasons.items() if there[name] is None)
    if symbol:
        await learn(described.schema, reflection, [symbol])
    return described
