"""`pymicro run`: run the Service of a Python file or module."""

from __future__ import annotations

from dataclasses import dataclass

import click

from pymicro.cli.completing import complete_files
from pymicro.cli.flags import SettingsCommand, settings_argv
from pymicro.cli.report import EXIT_FAILED, InputError, Session, complain

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class _Reload:
    """The flags of `--reload` that stand after TARGET, where people write them too."""

    reload: bool = False
    stop_first: bool = False
    folders: tuple[str, ...] = ()


def _taken_from(flags: tuple[str, ...]) -> tuple[_Reload, tuple[str, ...]]:
    """The command's own flags after TARGET, and those that go to the program.

    Raises:
        InputError: `--reload-dir` has no folder.
    """
    end = flags.index("--") if "--" in flags else len(flags)
    words, rest = list(flags[:end]), flags[end + 1 :]
    kept: list[str] = []
    folders: list[str] = []
    found = {"--reload": False, "--reload-stop-first": False}
    while words:
        word = words.pop(0)
        head, equals, value = word.partition("=")
        name = head.replace("_", "-")
        if name in found and not equals:
            found[name] = True
        elif name == "--reload-dir":
            if not equals and not words:
                raise InputError("--reload-dir needs a folder")
            folders.append(value if equals else words.pop(0))
        else:
            kept.append(word)
    taken = _Reload(found["--reload"], found["--reload-stop-first"], tuple(folders))
    return taken, (*kept, *rest)


@click.command(
    "run",
    cls=SettingsCommand,
    serving=True,
    # Arguments after TARGET belong to the program.
    context_settings={"allow_interspersed_args": False},
)
@click.argument("target", shell_complete=complete_files)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS]...")
@click.option("--print-config", is_flag=True, help="Show each setting with its value and source, and exit.")
@click.option(
    "--reload", is_flag=True, help="Run it in a process of its own, and again after each change of its files."
)
@click.option(
    "--reload-dir",
    "folders",
    metavar="FOLDER",
    multiple=True,
    help="With --reload: watch this folder too, besides TARGET's own. May be repeated.",
)
@click.option(
    "--reload-stop-first",
    "stop_first",
    is_flag=True,
    help="With --reload: stop the old process first, for a program that cannot run twice at a time.",
)
@click.option("--supervised", "descriptor", type=int, hidden=True)
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    flags: tuple[str, ...],
    print_config: bool,
    reload: bool,
    folders: tuple[str, ...],
    stop_first: bool,
    descriptor: int | None,
) -> int:
    """Run the Service in TARGET until SIGTERM or SIGINT.

    TARGET is path.py, path.py:name, package.module or package.module:name; the
    name is needed if there is more than one Service. The command does what 'python
    path.py' does. FLAGS go to the program, but for those of --reload; the settings
    below are among them, and may also stand before TARGET. What follows -- goes to
    the program, whatever it is.

    Exit code 0 after a clean stop, 1 if the service could not start, 2 for bad input
    or handlers that do not fit their proto, 3 if it left threads or tasks behind that
    still ran, 128 plus the signal if a second signal cut the stop short, 130 if a
    handler raised KeyboardInterrupt.

    With --reload the service starts again after each change of a Python or
    configuration file (.py, .env, .toml, .yaml, .ini, .cfg). The new process starts
    first, then the old one leaves, so that no call fails. If the new code cannot
    start, the old process serves on until the next change.
    """
    session = ctx.find_object(Session) or Session()
    after, flags = _taken_from(flags)
    reload, stop_first = reload or after.reload, stop_first or after.stop_first
    folders = (*folders, *after.folders)
    if (folders or stop_first) and not reload:
        raise InputError("--reload-dir and --reload-stop-first go with --reload")
    # These flags print something and end, whatever changes.
    if reload and not (print_config or {"--help", "-h", "--print-config", "--print_config"} & {*flags}):
        from pymicro.cli.reload import run_reloading

        return run_reloading(
            target, settings_argv(ctx), flags, folders=folders, stop_first=stop_first, debug=session.debug
        )

    if descriptor is not None:
        from pymicro.runtime.supervised import Supervised, supervisor

        supervisor.set(Supervised(descriptor))

    from pymicro.cli.loader import UserCodeFailed, load_service

    before = settings_argv(ctx) + (["--print-config"] if print_config else [])
    try:
        service = load_service(target, [*before, *flags])
    except UserCodeFailed as exc:
        complain(session, str(exc), exc.__cause__ or exc)
        return EXIT_FAILED
    if not service.ran:
        service.run()
    return 0
