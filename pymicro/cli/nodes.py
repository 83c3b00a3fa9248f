"""`pymicro nodes`: the nodes of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from pymicro.cli.clients import make_client, nobody, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.listing import output_option, print_array, print_table, watch_option
from pymicro.cli.report import EXIT_FAILED, note
from pymicro.cli.views import Form, open_view
from pymicro.errors import RegistryError

if TYPE_CHECKING:
    from pymicro.node import Node, NodeSet

__all__ = ["nodes"]

# A source that cannot be asked is asked again after this many seconds.
_RETRY = 1.0


@click.command("nodes", cls=SettingsCommand)
@click.argument("service", shell_complete=complete_services)
@output_option
@watch_option
@click.pass_context
def nodes(ctx: click.Context, service: str, output: str, watch: bool) -> int:
    """List the nodes of SERVICE: where calls to it would go.

    With -o json an array of objects with id, address, service, version and
    metadata. Exit code 1 if there is no node.
    """
    argv = settings_argv(ctx)
    return run(_watch(service, output, argv) if watch else _list(service, output, argv))


async def _list(service: str, output: str, argv: Sequence[str]) -> int:
    async with make_client(argv) as client:
        found = await client.nodes(service)
        if output == "json":
            print_array([node.to_json() for node in found])
        elif found:
            wide = output == "wide"
            print_table(_header(wide), [_row(node, wide) for node in found])
        if not found:
            note(await nobody(client, service))
    return 0 if found else EXIT_FAILED


async def _watch(service: str, output: str, argv: Sequence[str]) -> int:
    wide = output == "wide"
    form: Form[Node] = Form(
        title=f"nodes of {service}",
        header=_header(wide),
        row=lambda node: _row(node, wide),
        to_json=lambda node: node.to_json(),
    )
    last: NodeSet | None = None
    async with make_client(argv) as client:
        with open_view(output, form) as view:
            while True:
                try:
                    async with aclosing(client.watch_nodes(service)) as sets:  # type: ignore[type-var]
                        async for found in sets:
                            if found == last:
                                continue
                            remark = "" if found else await nobody(client, service)
                            view.show({node.key: node for node in found}, remark)
                            last = found
                except RegistryError as exc:
                    view.remark(f"{exc}; asking again")
                await asyncio.sleep(_RETRY)


def _header(wide: bool) -> list[str]:
    return ["ID", "ADDRESS", "VERSION", *(["METADATA"] if wide else [])]


def _row(node: Node, wide: bool) -> list[str]:
    row = [node.id, node.address, node.version]
    if wide:
        row.append(",".join(f"{key}={value}" for key, value in sorted(node.metadata.items())))
    return row
