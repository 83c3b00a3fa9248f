"""`pymicro config`: the settings in force and where each came from."""

from __future__ import annotations

import click

from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import note, printable, say
from pymicro.settings import config as settings

__all__ = ["config"]


@click.command("config", cls=SettingsCommand, serving=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show every setting's value and where it came from.

    A flag wins over the environment (MICRO_*), the environment over a file
    (pymicro.toml in the working folder, or another that --config or MICRO_CONFIG
    names), the file over the program's code, and the code over the default.
    """
    found = settings.load(argv=settings_argv(ctx))
    for remark in found.remarks:
        note(remark)
    for line in settings.unknown_environment():
        note(line)
    say(printable(settings.render(found)))
