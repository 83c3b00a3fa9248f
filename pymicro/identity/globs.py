"""Patterns with stars, in a time that nobody who is held against them can stretch."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Globs"]

_STARS = re.compile(r"(\*\*|\*)")


class Globs:
    """Patterns, one of which has to match.

    A regular expression tries each star at every place, and one star more multiplies that by the length of
    the text. So expressions are for patterns with one star at most, as most have. The places up to which a
    text matches the beginning of another pattern are kept as the bits of a number, and each part of the
    pattern moves them all at once.

    Args:
        patterns: `**` in them stands for anything.
        stops: Characters that `*` does not stand for.
    """

    def __init__(self, patterns: Iterable[str], stops: str) -> None:
        parts = [tuple(filter(None, _STARS.split(one))) for one in patterns]
        star = f"[^{re.escape(stops)}]*"
        simple = [one for one in parts if sum(map(_is_star, one)) < 2]
        text = "|".join(
            "".join({"*": star, "**": ".*"}.get(part) or re.escape(part) for part in one) for one in simple
        )
        self._simple = re.compile(text, re.DOTALL) if simple else None
        self._others = [one for one in parts if sum(map(_is_star, one)) >= 2]
        self._stops = stops

    def match(self, text: str) -> bool:
        """Whether a pattern matches all of a text."""
        if self._simple is not None and self._simple.fullmatch(text):
            return True
        return any(self._matches(parts, text) for parts in self._others)

    def _matches(self, parts: tuple[str, ...], text: str) -> bool:
        end = 1 << len(text)
        reached = 1
        for part in parts:
            if part == "**":
                reached = 2 * end - (reached & -reached)  # from the lowest one on
            elif part == "*":
                passable, step = (end - 1) & ~sum(_places(text, one) for one in self._stops), 1
                while passable:
                    reached |= (reached & passable) << step
                    passable &= passable >> step
                    step *= 2
            else:
                reached = (reached & _places(text, part)) << len(part)
        return bool(reached & end)


def _is_star(part: str) -> bool:
    return part in ("*", "**")


def _places(text: str, part: str) -> int:
    """A bit for each place where `part` begins."""
    found, at = 0, text.find(part)
    while at >= 0:
        found |= 1 << at
        at = text.find(part, at + 1)
    return found
