"""What a scenario finds: tables in Markdown, and how to draw its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Result", "Table", "milliseconds", "percent", "write_into"]


def percent(share: float) -> str:
    """`0.123` as `12.3 %`; small ones with two places."""
    return f"{share * 100:.1f} %" if share >= 0.0995 else f"{share * 100:.2f} %"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}" if seconds >= 0.0995 else f"{seconds * 1000:.1f}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.head))]
        text = [
            "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"{self.title}:", "", text[0], rule, *text[1:]])


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario found.

    Attributes:
        tables: To be printed.
        caption: What the picture shows.
        draw: Draws it on a matplotlib figure.
        size: Of the figure, in inches.
    """

    tables: Sequence[Table]
    caption: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = field(default=(10.0, 4.2))


def write_into(readme: Path, name: str, result: Result) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a Markdown file."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = readme.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise SystemExit(f"{readme}: no place for the results of {name}")
    body = "\n\n".join(map(str, result.tables))
    picture = f"![{result.caption}](plots/{name}.png)"
    readme.write_text(f"{before}{begin}\n{body}\n\n{picture}\n\n{end}{after}")
