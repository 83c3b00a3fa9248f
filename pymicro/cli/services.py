"""`pymicro services`: the services that have nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pymicro.base.errors import RegistryError
from pymicro.cli.clients import known_nodes, make_client, run
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.listing import output_option, print_array, print_table, watch_option
from pymicro.cli.report import note
from pymicro.cli.views import Form, open_view

if TYPE_CHECKING:
    from pymicro.client import Client
    from pymicro.nodes.node import Node

__all__ = ["services"]

# Columns that stay in the row on a narrow terminal.
_FIXED = 3
# Registries report changes of one service, not of the list of services, so we ask for the list.
_INTERVAL = 1.0


@click.command("services", cls=SettingsCommand)
@output_option
@watch_option
@click.pass_context
def services(ctx: click.Context, output: str, watch: bool) -> int:
    """List the services that have nodes, as the registry knows them.

    With -o json an array of objects with name, nodes (their number), versions
    and addresses.
    """
    # The user's selector does not matter here: only `registry` can list services.
    argv = [*settings_argv(ctx), "--selector=registry"]
    return run(_watch(output, argv) if watch else _list(output, argv))


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    nodes: tuple[Node, ...]

    @property
    def versions(self) -> list[str]:
        return sorted({node.version for node in self.nodes if node.version})

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def row(self, wide: bool) -> list[str]:
        row = [self.name, str(len(self.nodes)), ",".join(self.versions)]
        return [*row, ",".join(self.addresses)] if wide else row

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "nodes": len(self.nodes),
            "versions": self.versions,
            "addresses": self.addresses,
        }


async def _find(client: Client) -> list[_Service]:
    names = await client.services()
    found = await asyncio.gather(*(known_nodes(client, name) for name in names))
    # A service whose last node has left in between is no service any more.
    return [_Service(name, nodes) for name, nodes in zip(names, found, strict=True) if nodes]


async def _list(output: str, argv: Sequence[str]) -> int:
    async with make_client(argv) as client:
        found = await _find(client)
        if output == "json":
            print_array([service.to_json() for service in found])
        elif found:
            wide = output == "wide"
            print_table(_header(wide), [service.row(wide) for service in found], fixed=_FIXED)
        if not found:
            note(_nobody(client))
    return 0


async def _watch(output: str, argv: Sequence[str]) -> int:
    wide = output == "wide"
    form: Form[_Service] = Form(
        title="services",
        header=_header(wide),
        fixed=_FIXED,
        row=lambda service: service.row(wide),
        to_json=lambda service: service.to_json(),
    )
    last: list[_Service] | None = None
    async with make_client(argv) as client:
        with open_view(output, form) as view:
            while True:
                try:
                    found = await _find(client)
                except RegistryError as exc:
                    view.remark(f"{exc}; asking again")
                else:
                    if found != last:
                        remark = "" if found else _nobody(client)
                        view.show({service.name: service for service in found}, remark)
                    last = found
                await asyncio.sleep(_INTERVAL)


def _header(wide: bool) -> list[str]:
    return ["NAME", "NODES", "VERSIONS", *(["ADDRESSES"] if wide else [])]


def _nobody(client: Client) -> str:
    return f"no services: {client.registry.describe()} lists none"
