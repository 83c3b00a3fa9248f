"""`pymicro run`: run the Service of a Python file or module."""

from __future__ import annotations

import click

from pymicro.cli.completing import complete_files
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import EXIT_FAILED, Session, complain

__all__ = ["run"]


@click.command(
    "run",
    cls=SettingsCommand,
    serving=True,
    # What follows TARGET is the program's.
    context_settings={"allow_interspersed_args": False},
)
@click.argument("target", shell_complete=complete_files)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS]...")
@click.option("--print-config", is_flag=True, help="Show each setting with its value and source, and exit.")
@click.pass_context
def run(ctx: click.Context, target: str, flags: tuple[str, ...], print_config: bool) -> int:
    """Run the Service in TARGET until SIGTERM or SIGINT.

    TARGET is path.py, path.py:name, package.module or package.module:name; the
    name is needed where there is more than one Service. It does what 'python
    path.py' does: FLAGS are the program's own, among them the settings below,
    which may also stand before TARGET.

    Exit code 0 after a clean stop, 1 if it could not start, 2 for bad input or
    handlers that do not fit their proto, 128 plus the signal after a second one.
    """
    from pymicro.cli.loader import UserCodeFailed, load_service

    before = settings_argv(ctx) + (["--print-config"] if print_config else [])
    try:
        service = load_service(target, [*before, *flags])
    except UserCodeFailed as exc:
        session = ctx.find_object(Session) or Session()
        complain(session, str(exc), exc.__cause__ or exc)
        return EXIT_FAILED
    if not service.ran:
        service.run()
    return 0
