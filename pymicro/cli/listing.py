"""Tables for people, arrays for programs, and changes as they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import click

from pymicro.cli.report import dump, on_terminal, printable, say

__all__ = ["Changes", "columns", "output_option", "print_array", "print_table", "watch_option"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """`-o table|wide|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "wide", "json"]),
        default="table",
        help="A table (default), one with more columns, or a JSON array.",
    )(command)


def watch_option(command: F) -> F:
    """`-w`."""
    return click.option(
        "-w",
        "--watch",
        is_flag=True,
        help="Go on and print each change: + came, - left, ~ changed; with -o json the whole array.",
    )(command)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns wide enough for what is in them, the same on a terminal and in a pipe."""
    for line in columns([header, *rows]):
        say(line)


def columns(rows: Sequence[Sequence[str]], *, empty: str = "-") -> list[str]:
    """A line for each row, the columns as wide as what is in them; `empty` is written for nothing."""
    cells = [[printable(cell).replace("\n", "\\n") or empty for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def print_array(items: Sequence[Any]) -> None:
    """A JSON array: indented on a terminal, one line in a pipe."""
    say(dump(list(items), pretty=on_terminal()))


class Changes(Generic[T]):
    """Prints what became of a set of things since it was last shown.

    Args:
        row: What is shown of one thing. Two with equal rows are equal.
    """

    def __init__(self, row: Callable[[T], Sequence[str]]) -> None:
        self._row = row
        self._shown: dict[str, Sequence[str]] = {}

    def show(self, things: Mapping[str, T]) -> None:
        """Print a line for each thing that came, left or changed."""
        rows = {key: self._row(thing) for key, thing in things.items()}
        lines = [("-", row) for key, row in self._shown.items() if key not in rows]
        for key, row in rows.items():
            before = self._shown.get(key)
            if before != row:
                lines.append(("+" if before is None else "~", row))
        self._shown = rows
        if lines:
            now = time.strftime("%H:%M:%S")
            for line in columns([[now, mark, *row] for mark, row in lines]):
                say(line)
