"""What a person at a terminal sees, drawn by rich: tables that wrap, findings, progress.

All text here may be a stranger's: it is a `Text`, in which nothing is markup, and
control characters are shown and not obeyed. Nothing of this goes into a pipe.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from pymicro.base.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["console_of", "marked", "plain_text", "table"]

# Between two columns, and before what stands below a row.
_GAP = 2
_BELOW = 4
# What is left to a column that takes all the room that others need.
_NARROWEST = 12


def console_of(stream: TextIO) -> Console:
    """A console that writes to a stream, and interprets nothing."""
    from rich.console import Console

    # A character that the terminal cannot show must not end the command.
    if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
        reconfigure(errors="replace")
    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        # https://no-color.org: if it is set and not empty, use no colours.
        no_color=bool(os.environ.get("NO_COLOR")),
        # Some shells and programs export a size, which stays when the terminal gets another one.
        _environ={name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")},
    )


def plain_text(text: str, style: str = "") -> Text:
    """A stranger's text: nothing in it is markup, and no control character is obeyed."""
    from rich.text import Text

    return Text(printable(text), style=style)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    fixed: int | None = None,
    colours: Iterable[str] = (),
) -> list[RenderableType]:
    """A table as wide as the terminal at most.

    If it is wider, what does not belong to the first columns stands below each row,
    indented. Cells that are still too wide are folded.

    Args:
        header: Names of the columns; none is shown if it is empty.
        rows: Cells, all rows of one length.
        width: Of the terminal, in columns.
        fixed: How many columns stay in the row; all but the last if None.
        colours: For each row; none if empty.
    """
    from rich.cells import cell_len
    from rich.padding import Padding

    every = [*([header] if header else []), *rows]
    if not every:
        return []
    widths = [max(cell_len(printable(cell)) for cell in column) for column in zip(*every, strict=True)]
    kept = len(widths)
    if _total(widths) > width:
        kept = kept - 1 if fixed is None else fixed
        widths = _narrowed(widths[:kept], width)
    drawn: list[RenderableType] = [_row(header[:kept], widths, "bold")] if header else []
    for row, colour in zip(rows, [*colours] or [""] * len(rows), strict=True):
        drawn.append(_row(row[:kept], widths, colour))
        below = " ".join(cell for cell in row[kept:] if cell.strip(" -"))
        if below:
            drawn.append(Padding(plain_text(below, colour or "dim"), (0, 0, 0, _BELOW)))
    return drawn


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _narrowed(widths: Sequence[int], width: int) -> list[int]:
    """Column widths that fit: the widest columns give way."""
    narrowed = list(widths)
    while (over := _total(narrowed) - width) > 0 and max(narrowed) > _NARROWEST:
        widest = narrowed.index(max(narrowed))
        narrowed[widest] = max(_NARROWEST, narrowed[widest] - over)
    return narrowed


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> RenderableType:
    from rich.table import Table

    grid: Table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for width in widths:
        grid.add_column(width=width, overflow="fold")
    grid.add_row(*(plain_text(cell) for cell in cells), style=style)
    return grid


def marked(mark: str, colour: str, title: str, text: str, fix: str, *, arrow: str) -> RenderableType:
    """A line with a mark in front, its text beside its title, and the cure below on a line of its own."""
    from rich.table import Table
    from rich.text import Text

    grid: Table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    grid.add_column(width=len(mark))
    grid.add_column(width=_TITLE, overflow="fold")
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(Text(mark, style=f"bold {colour}"), plain_text(title, "bold"), plain_text(text))
    if fix:
        cure = Table.grid(padding=(0, 1, 0, 0), pad_edge=False, expand=True)
        cure.add_column(width=len(arrow))
        cure.add_column(ratio=1, overflow="fold")
        cure.add_row(Text(arrow, style="cyan"), plain_text(fix, "cyan"))
        grid.add_row("", "", cure)
    return grid


# Width of the titles' column: most names of checks are shorter, those of pods are folded.
_TITLE = 22
