"""`pymicro wait`: until a service can be called, for scripts."""

from __future__ import annotations

import click

from pymicro.cli.clients import address_option, read_address, read_seconds, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.service_name import SERVICE_NAME

__all__ = ["wait"]

# Seconds a node has for each answer; the command's own limit goes on.
_ANSWER = 2.0


@click.command("wait", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, shell_complete=complete_services)
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    show_default=True,
    help="How many nodes it takes.",
)
@click.option(
    "--timeout",
    default="30s",
    metavar="DURATION",
    show_default=True,
    help="How long to wait; 0 for ever.",
)
@address_option
@click.pass_context
def wait(ctx: click.Context, service: str, nodes: int, timeout: str, address: str | None) -> int:
    """Wait until SERVICE has a node that takes calls.

    A node counts when it can be reached and its health is SERVING. A node that
    answers, but has no health to tell, counts too.

    Exit code 0 as soon as there are so many, 1 if the time is over; then it says
    what there is instead.
    """
    # This imports grpc, which --help does without.
    from pymicro.cli.healths import HealthQuestion, wait_for_nodes

    limit = read_seconds("--timeout", timeout)
    question = HealthQuestion(
        service=service,
        name="",
        timeout=_ANSWER,
        address=None if address is None else read_address(address),
    )
    return run(wait_for_nodes(question, settings_argv(ctx), nodes, limit))
