"""The command `pymicro`: finds the subcommand, and turns its end into a message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from pymicro._version import __version__
from pymicro.base.errors import ConfigError, PymicroError
from pymicro.base.printable import excerpt
from pymicro.base.streams import fill_standard_streams
from pymicro.base.suggest import did_you_mean
from pymicro.cli.completing import VARIABLE, answer
from pymicro.cli.flags import debug_option
from pymicro.cli.report import (
    EXIT_FAILED,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_PIPE,
    InputError,
    Session,
    complain,
    note,
)

__all__ = ["command_line", "main"]

# A disk that takes no more of what is written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# In the order of the help page. Each command is the function of that name in the module of that name.
_COMMANDS = [
    "run",
    "up",
    "call",
    "bench",
    "services",
    "nodes",
    "list",
    "describe",
    "health",
    "wait",
    "top",
    "doctor",
    "new",
    "gen",
    "manifest",
    "config",
    "completion",
]


class _Commands(click.Group):
    """Imports a command's module when the user asks for the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"pymicro.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            near = did_you_mean(args[0], _COMMANDS) or f"; there are: {', '.join(_COMMANDS)}"
            raise click.UsageError(f"there is no command {excerpt(args[0])}{near}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    # Flags may be written with - or _.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@debug_option
@click.pass_context
def command_line(ctx: click.Context) -> None:
    """Run, find and call gRPC services."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    else:
        ctx.find_object(Session).command += f" {ctx.invoked_subcommand}"  # type: ignore[union-attr]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        argv: Arguments without the program's name; `sys.argv[1:]` if None.
    """
    sys.exit(_run(sys.argv[1:] if argv is None else list(argv)))


def _run(argv: list[str]) -> int:
    if instruction := os.environ.get(VARIABLE):
        answer(command_line, instruction)
    session = Session()
    fill_standard_streams()
    # A daemon, or a start with `>&-`, leaves these out; then nobody reads the output.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        # We do not use click's own main(): it prints on an interrupt and has exit codes of its own.
        with command_line.make_context("pymicro", argv, obj=session) as ctx:
            code = command_line.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exc:  # --help, --version
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone. Python flushes at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except click.UsageError as exc:
        complain(session, _describe(exc), exc)
        note(f"Try '{exc.ctx.command_path if exc.ctx else session.command} --help'.")
        return EXIT_INPUT
    except click.ClickException as exc:
        complain(session, exc.format_message(), exc)
        return exc.exit_code
    except (ConfigError, InputError) as exc:
        complain(session, str(exc), exc)
        return EXIT_INPUT
    except PymicroError as exc:
        complain(session, str(exc), exc)
        return EXIT_FAILED
    except OSError as exc:
        if exc.errno not in _DISK or exc.filename is not None:
            return _unexpected(session, exc)
        complain(session, f"the output cannot be written: {exc.strerror}", exc)
        return EXIT_FAILED
    except Exception as exc:
        return _unexpected(session, exc)


def _unexpected(session: Session, exc: Exception) -> int:
    hint = "" if session.debug else " (unexpected; --debug shows where)"
    complain(session, f"{type(exc).__name__}: {exc}{hint}", exc)
    return EXIT_FAILED


def _describe(exc: click.UsageError) -> str:
    """What was wrong; for an unknown flag, in the words of `config.load`."""
    if not isinstance(exc, click.NoSuchOption) or exc.ctx is None:
        return exc.format_message()
    known = [flag for param in exc.ctx.command.get_params(exc.ctx) for flag in param.opts]
    return f"unknown flag {exc.option_name}{did_you_mean(exc.option_name, known)}".replace("'", "")
