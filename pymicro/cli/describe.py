"""`pymicro describe`: the proto source of a service, or of something in it."""

from __future__ import annotations

import click

from pymicro.cli.clients import address_option, read_address, run
from pymicro.cli.completing import complete_services, complete_symbols
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.service_name import SERVICE_NAME

__all__ = ["describe"]


@click.command("describe", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, shell_complete=complete_services)
@click.argument("symbol", default="", metavar="[SYMBOL]", shell_complete=complete_symbols)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["proto", "json"]),
    default="proto",
    help="Proto source (default), or the descriptors as JSON.",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Show health, reflection and the like too.")
@address_option
@click.pass_context
def describe(
    ctx: click.Context, service: str, symbol: str, output: str, everything: bool, address: str | None
) -> int:
    """Show the proto source of SERVICE, or of SYMBOL in it.

    It asks a node by reflection. SYMBOL is Greeter, Greeter.SayHello (shown with the
    messages it takes and gives), HelloRequest or HelloRequest.name, with or without
    the package in front; or the name of a proto file, for all that is in it. Without
    SYMBOL it shows all proto services.

    Comments are shown if the server keeps them; servers in Python do not. With
    -o json an object with name, kind, file and descriptor; without SYMBOL an array of
    them.
    """
    # This imports grpc, which --help does without.
    from pymicro.cli.describing import describe_service

    return run(
        describe_service(
            service,
            symbol,
            settings_argv(ctx),
            output,
            everything=everything,
            address=None if address is None else read_address(address),
        )
    )
