"""What the command line says and how it exits."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Final

import click

from pymicro.base.errors import PymicroError

__all__ = [
    "EXIT_FAILED",
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PIPE",
    "EXIT_STATUS",
    "InputError",
    "Session",
    "coloured",
    "complain",
    "dump",
    "note",
    "on_terminal",
    "printable",
    "say",
]

EXIT_FAILED: Final = 1
EXIT_INPUT: Final = 2
EXIT_STATUS: Final = 64  # plus the status of the call, as grpcurl has it
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_PIPE: Final = 141  # 128 + SIGPIPE, as a program without a handler for it ends


@dataclass
class Session:
    """What the end of the command needs to know of its beginning.

    Attributes:
        command: As messages name it, such as `pymicro call`.
        debug: Whether an error's traceback is shown.
    """

    command: str = "pymicro"
    debug: bool = False


class InputError(PymicroError):
    """Something the user typed, or a file they named, cannot be used."""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` with control characters escaped: a peer's words may not steer the terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Print a line to stdout at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print to stderr what is no part of the output."""
    print(printable(text), file=sys.stderr, flush=True)


def complain(session: Session, message: str, error: BaseException) -> None:
    """Print an error to stderr: `pymicro call: …`, below its traceback if that is wanted."""
    if session.debug:
        traceback.print_exception(error)
    note(f"{session.command}: {message}")


def on_terminal() -> bool:
    """Whether stdout is read by a person."""
    return sys.stdout.isatty()


def coloured(text: str, colour: str) -> str:
    """`text` in a colour of click's where stdout is a terminal that has any; as it is if that is empty."""
    # https://no-color.org: set and not empty means none.
    plain = not on_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not colour else click.style(text, fg=colour)


def dump(value: Any, *, pretty: bool = False) -> str:
    """A JSON document: in one line, or indented if it is `pretty`."""
    # Plain ASCII where the output cannot carry more; in UTF-8 people can read it.
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(
        value,
        ensure_ascii=not utf8,
        indent=2 if pretty else None,
        separators=None if pretty else (",", ":"),
    )
    # JSON leaves DEL and the C1 controls as they are, which a terminal obeys.
    return re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
