"""`pymicro health`: the health of each node of a service."""

from __future__ import annotations

import click

from pymicro.cli.clients import address_option, read_address, read_seconds, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.listing import output_option, watch_option
from pymicro.cli.report import InputError
from pymicro.cli.service_name import SERVICE_NAME

__all__ = ["health"]


@click.command("health", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, shell_complete=complete_services)
@output_option
@watch_option
@click.option(
    "-n",
    "--name",
    default="",
    metavar="NAME",
    help="Ask about this proto service, such as greeter.v1.Greeter.",
)
@click.option(
    "--timeout",
    default="2s",
    metavar="DURATION",
    show_default=True,
    help="How long a node may take to connect and answer.",
)
@address_option
@click.pass_context
def health(
    ctx: click.Context, service: str, output: str, watch: bool, name: str, timeout: str, address: str | None
) -> int:
    """Show the health of each node of SERVICE, and how long its answer took.

    It asks each node itself (grpc.health.v1): about the server as a whole, or with
    --name about one proto service. If a node does not answer, it shows why.

    Exit code 0 if all nodes are SERVING, 1 if one is not or there is no node. With
    -o json an array of objects with id, address, version, status, milliseconds
    and error.
    """
    # This imports grpc, which --help does without.
    from pymicro.cli.healths import HealthQuestion, show_health, watch_health

    seconds = read_seconds("--timeout", timeout)
    if not seconds:
        raise InputError(f"--timeout: in {timeout} no node can answer")
    question = HealthQuestion(
        service=service,
        name=name,
        timeout=seconds,
        address=None if address is None else read_address(address),
    )
    return run((watch_health if watch else show_health)(question, settings_argv(ctx), output))
