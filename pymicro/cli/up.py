"""`pymicro up`: the services of a `pymicro.toml`, side by side."""

from __future__ import annotations

import click

from pymicro.cli.completing import complete_files
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import Session
from pymicro.cli.up_programs import run_side_by_side

__all__ = ["up"]


@click.command("up", cls=SettingsCommand, serving=True)
@click.argument("file", required=False, default="", shell_complete=complete_files)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="Start this service, and not all. May be repeated.",
)
@click.option("--reload", is_flag=True, help="Start a service again after each change of its files.")
@click.pass_context
def up(ctx: click.Context, file: str, only: tuple[str, ...], reload: bool) -> int:
    """Run the services of FILE side by side until SIGTERM or SIGINT.

    FILE is pymicro.toml of the working folder if none is given. It has a table for
    each service:

    \b
        [services.greeter]
        run = "server.py"          # as 'pymicro run' takes it
        replicas = 2
        [services.web]
        command = ["node", "web.js"]

    What they print comes as one log, each line with the service's name in front. One
    that crashes is started again, after a second, then after two, four and so on up
    to 30. Ctrl-C stops all; a second one skips the waiting. Settings given as flags
    are for all services.

    Exit code 0 if all stopped cleanly or had ended by themselves with 0, 1 if one did
    not, 2 for bad input, 128 plus the signal if a second signal cut the stop short,
    141 if nobody reads what they print any more.
    """
    session = ctx.find_object(Session) or Session()
    return run_side_by_side(file, settings_argv(ctx), only=only, reload=reload, debug=session.debug)
