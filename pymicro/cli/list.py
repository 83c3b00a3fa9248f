"""`pymicro list`: the methods of a service."""

from __future__ import annotations

import click

from pymicro.cli.clients import address_option, read_address, run
from pymicro.cli.completing import complete_services
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.listing import output_option
from pymicro.cli.service_name import SERVICE_NAME

__all__ = ["list"]


# The command's name hides one of Python's own, which this module does not need.
@click.command("list", cls=SettingsCommand)
@click.argument("service", type=SERVICE_NAME, shell_complete=complete_services)
@output_option
@click.option("-a", "--all", "everything", is_flag=True, help="Show health, reflection and the like too.")
@address_option
@click.pass_context
def list(ctx: click.Context, service: str, output: str, everything: bool, address: str | None) -> int:
    """List the methods of SERVICE, and what each takes and gives.

    It asks a node by reflection. If the server has no reflection, it lists the
    endpoints in the registry record.

    A message of the method's own package is shown without the package, with -o wide
    by its full name. With -o json an array of proto services and their methods.
    """
    # This imports grpc, which --help does without.
    from pymicro.cli.methods import list_methods

    address = None if address is None else read_address(address)
    return run(list_methods(service, settings_argv(ctx), output, everything=everything, address=address))
