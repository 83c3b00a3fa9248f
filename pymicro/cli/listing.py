"""Tables for people and arrays for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from pymicro.cli.report import dump, on_terminal, printable, say

__all__ = ["columns", "output_option", "print_array", "print_table", "watch_option"]

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
        help="Go on until Ctrl-C. A terminal shows the table redrawn in place, a pipe gets a line for "
        "each change (+ came, - left, ~ changed), with -o json the whole array.",
    )(command)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their contents, the same on a terminal and in a pipe."""
    for line in columns([header, *rows]):
        say(line)


def columns(rows: Sequence[Sequence[str]], *, empty: str = "-") -> list[str]:
    """A line for each row, with columns as wide as their contents; `empty` stands for empty cells."""
    cells = [[printable(cell).replace("\n", "\\n") or empty for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def print_array(items: Sequence[Any]) -> None:
    """A JSON array: indented on a terminal, one line in a pipe."""
    say(dump(list(items), pretty=on_terminal()))
