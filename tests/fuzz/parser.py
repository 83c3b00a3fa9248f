"""What a row of the fuzzer's tables is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

__all__ = ["Parser", "refusal", "runner"]


@dataclass(frozen=True)
class Parser:
    """One parser, or several that read the same.

    Attributes:
        name: For people, and for the findings.
        inputs: What it is given.
        check: Gives it one input.
        raises: The exceptions that it documents.
        aside: Whether it runs in a thread of its own, so that it may take its time.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], object]
    raises: tuple[type[Exception], ...] = ()
    aside: bool = False


def refusal(ask: Callable[[], object], kind: type[Exception]) -> str:
    """The message with which it is refused; empty if it is not."""
    try:
        ask()
    except kind as exc:
        return str(exc)
    return ""


@cache
def runner() -> asyncio.Runner:
    """An event loop for parsers that wait."""
    return asyncio.Runner()
