"""Finds the known name that a person meant by an unknown word."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from pymicro.base.printable import excerpt

__all__ = ["did_you_mean", "nearest"]


def nearest(word: str, names: Iterable[str], bare: Callable[[str], str] = str) -> str | None:
    """The one of `names` that looks most like `word`; None if none looks like it.

    Args:
        bare: Removes from a name, and from `word`, what must not be compared, such as case.
    """
    by_bare = {bare(name): name for name in names}
    near = difflib.get_close_matches(bare(word), by_bare, n=1, cutoff=0.6)
    return by_bare[near[0]] if near else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `names`, as the end of a message; empty if none is near."""
    near = nearest(word, names)
    return f"; did you mean {excerpt(near)}?" if near else ""
