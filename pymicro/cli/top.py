"""`pymicro top`: what the nodes of a service do now."""

from __future__ import annotations

import click

from pymicro.cli.clients import read_seconds, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import InputError
from pymicro.cli.service_name import SERVICE_NAME
from pymicro.cli.topping import TopQuestion, show_top

__all__ = ["top"]

# Below this, figures say little, and asking costs the nodes more than it should.
_SHORTEST = 0.1


@click.command("top", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, required=False, shell_complete=complete_services)
@click.option("--address", metavar="HOST:PORT", help="Ask this admin port, and no registry.")
@click.option(
    "--interval", default="1s", metavar="DURATION", help="Time between two readings of the figures.  [1s]"
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after so many tables.  [no end; with -o json 1]",
)
@click.option(
    "--timeout", default="2s", metavar="DURATION", help="Time that a node has for its answer.  [2s]"
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    help="A table (default), redrawn in place on a terminal; or JSON.",
)
@click.pass_context
def top(
    ctx: click.Context,
    service: str | None,
    address: str | None,
    interval: str,
    count: int | None,
    timeout: str,
    output: str,
) -> int:
    """Show what the nodes of SERVICE do: calls and errors a second, latencies, calls in flight.

    Without SERVICE, the nodes of all services. The figures come from the admin port of each node, whose
    number its record has; at most 100 nodes are asked. Below them are the calls that the nodes
    make, and which nodes these see: how many of them call each one, and why one does not.
    Exit code 1 if no node told anything.
    """
    if service is not None and address is not None:
        raise InputError("either SERVICE or --address: with an address no registry is asked")
    question = TopQuestion(
        service=service,
        address=address,
        interval=max(_SHORTEST, read_seconds("--interval", interval)),
        timeout=read_seconds("--timeout", timeout),
        count=count or (1 if output == "json" else None),
    )
    return run(show_top(question, settings_argv(ctx), output))
