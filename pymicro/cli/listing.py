"""Tables for people and arrays for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from pymicro.base.printable import shortened
from pymicro.cli.report import dump, on_terminal, printable, say

__all__ = ["columns", "output_option", "print_array", "print_table", "shown_cells", "watch_option"]

F = TypeVar("F", bound=Callable[..., Any])

# Characters of a cell: every row gets as wide as the widest.
_LONGEST = 1000


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


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    fixed: int | None = None,
    colours: Sequence[str] = (),
    empty: str = "-",
) -> None:
    """Columns as wide as their contents; a terminal that is narrower gets the last ones below each row.

    Args:
        header: Names of the columns; none is printed if it is empty.
        fixed: How many columns stay in the row; all but the last if None.
        colours: For each row, on a terminal.
        empty: Stands for empty cells.
    """
    if not on_terminal():
        for line in columns([*([header] if header else []), *rows], empty=empty):
            say(line)
        return
    from pymicro.cli.terminal import console_of, table

    console = console_of(sys.stdout)
    shown = [shown_cells(row, empty) for row in rows]
    for part in table(header, shown, width=console.width, fixed=fixed, colours=colours):
        console.print(part)


def columns(rows: Sequence[Sequence[str]], *, empty: str = "-") -> list[str]:
    """A line for each row, with columns as wide as their contents.

    What is very long is cut; `-o json` has all of it.

    Args:
        empty: Stands for empty cells.
    """
    cells = [shown_cells(row, empty) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def shown_cells(row: Sequence[str], empty: str = "-") -> list[str]:
    """Cells as a table shows them: each on one line, and not too long."""
    return [printable(shortened(cell, _LONGEST)).replace("\n", "\\n") or empty for cell in row]


def print_array(items: Sequence[Any]) -> None:
    """A JSON array: indented on a terminal, one line in a pipe."""
    say(dump(list(items), pretty=on_terminal()))
