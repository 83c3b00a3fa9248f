"""`pymicro nodes`: the nodes of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from pymicro.base.errors import RegistryError
from pymicro.cli.clients import known_nodes, make_client, nobody, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.listing import output_option, print_array, print_table, watch_option
from pymicro.cli.report import EXIT_FAILED, note
from pymicro.cli.service_name import SERVICE_NAME
from pymicro.cli.views import Form, open_view
from pymicro.nodes.wellknown import other_protocol, others_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pymicro.client import Client
    from pymicro.nodes.node import Node, NodeSet

__all__ = ["nodes"]

# Columns that stay in the row on a narrow terminal.
_FIXED = 4
# Seconds until a source that cannot be asked is asked again.
_RETRY = 1.0


@click.command("nodes", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, shell_complete=complete_services)
@output_option
@watch_option
@click.pass_context
def nodes(ctx: click.Context, service: str, output: str, watch: bool) -> int:
    """List the nodes of SERVICE: where calls to it would go.

    Clients do not call nodes that speak another protocol than gRPC. -o wide shows
    these too, and says why they are not called. With -o json an array of objects with id, address, service,
    version, metadata and not_called (why calls do not go there; null if they do).
    Exit code 1 if there is no node to call.
    """
    argv = settings_argv(ctx)
    return run(_watch(service, output, argv) if watch else _list(service, output, argv))


async def _list(service: str, output: str, argv: Sequence[str]) -> int:
    async with make_client(argv) as client:
        found = await known_nodes(client, service)
        shown = _shown(found, output)
        if output == "json":
            print_array([_to_json(node) for node in shown])
        elif shown:
            wide = output == "wide"
            print_table(_header(wide), [_row(node, wide) for node in shown], fixed=_FIXED)
        if remark := await _remark(client, service, found, len(shown)):
            note(remark)
    return EXIT_FAILED if all(map(_not_called, found)) else 0


async def _watch(service: str, output: str, argv: Sequence[str]) -> int:
    wide = output == "wide"
    form: Form[Node] = Form(
        title=f"nodes of {service}",
        header=_header(wide),
        fixed=_FIXED,
        row=lambda node: _row(node, wide),
        to_json=_to_json,
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
                            shown = _shown(found, output)
                            remark = await _remark(client, service, found.nodes, len(shown))
                            view.show({node.key: node for node in shown}, remark)
                            last = found
                except RegistryError as exc:
                    view.remark(f"{exc}; asking again")
                await asyncio.sleep(_RETRY)


async def _remark(client: Client, service: str, found: Sequence[Node], shown: int) -> str:
    """A remark about nodes that are not called, or about having none."""
    if not found:
        return await nobody(client, service)
    if all(map(_not_called, found)):
        return f"no node of {service} to call: {_others(found)}"
    return f"{_others(found)}: -o wide shows which" if shown < len(found) else ""


def _header(wide: bool) -> list[str]:
    return ["ID", "ADDRESS", "VERSION", *(["CALLED", "METADATA"] if wide else [])]


def _row(node: Node, wide: bool) -> list[str]:
    row = [node.id, node.address, node.version]
    if wide:
        why = _not_called(node)
        row.append(f"no: {why}" if why else "yes")
        row.append(",".join(f"{key}={value}" for key, value in sorted(node.metadata.items())))
    return row


def _to_json(node: Node) -> dict[str, Any]:
    return {**node.to_json(), "not_called": _not_called(node) or None}


def _not_called(node: Node) -> str:
    """Why calls do not go to the node; empty if they do."""
    protocol = other_protocol(node.metadata)
    return f"speaks {protocol}" if protocol else ""


def _shown(nodes: Iterable[Node], output: str) -> list[Node]:
    """The nodes to show; the plain table shows only those that are called."""
    return [node for node in nodes if output != "table" or not _not_called(node)]


def _others(nodes: Iterable[Node]) -> str:
    return others_text(filter(None, (other_protocol(node.metadata) for node in nodes)))
