"""What the command line prints, and how it exits."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Final, TextIO

from pymicro.base.errors import PymicroError
from pymicro.base.printable import escaped_json, printable

__all__ = [
    "EXIT_FAILED",
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PIPE",
    "EXIT_STATUS",
    "InputError",
    "Session",
    "complain",
    "dump",
    "note",
    "on_terminal",
    "printable",
    "say",
    "shows_colours",
    "utf8",
]

EXIT_FAILED: Final = 1
EXIT_INPUT: Final = 2
EXIT_STATUS: Final = 64  # plus the number of the call's status, as in grpcurl
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_PIPE: Final = 141  # 128 + SIGPIPE, like a program without a handler for it


@dataclass
class Session:
    """What the end of the command needs to know about its beginning.

    Attributes:
        command: The command as messages name it, such as `pymicro call`.
        debug: Whether to show an error's traceback.
    """

    command: str = "pymicro"
    debug: bool = False


class InputError(PymicroError):
    """The user typed something, or named a file, that cannot be used."""


def say(text: str) -> None:
    """Print a line to stdout at once."""
    print(text, flush=True)


def note(text: str, *, wrong: str = "") -> None:
    """Print to stderr a line that is not part of the output.

    Args:
        wrong: What the line begins with, if it is an error: red on a terminal.
    """
    if wrong and sys.stderr.isatty():
        from pymicro.cli.terminal import console_of, plain_text

        line = plain_text(wrong, "bold red").append_text(plain_text(text, "not bold default"))
        console_of(sys.stderr).print(line, soft_wrap=True)
    else:
        print(printable(wrong + text), file=sys.stderr, flush=True)


def complain(session: Session, message: str, error: BaseException) -> None:
    """Print an error to stderr: `pymicro call: …`, below its traceback if the user wants that."""
    if session.debug:
        note("".join(traceback.format_exception(error)).rstrip())
    note(f" {message}", wrong=f"{session.command}:")


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def shows_colours() -> bool:
    """Whether stdout is a terminal that has colours, and its user wants them."""
    # https://no-color.org: if it is set and not empty, use no colours.
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def utf8(stream: TextIO) -> bool:
    """Whether a stream can carry more than ASCII."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def dump(value: Any, *, pretty: bool = False) -> str:
    """A JSON document: in one line, or indented if it is `pretty`."""
    # Plain ASCII if the output can carry no more; UTF-8 is readable for people.
    text = json.dumps(
        value,
        ensure_ascii=not utf8(sys.stdout),
        indent=2 if pretty else None,
        separators=None if pretty else (",", ":"),
    )
    return escaped_json(text)
