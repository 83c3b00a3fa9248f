"""The results of checks: the lines of `pymicro doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check looked at, and its state.

    Attributes:
        check: What it looked at, in a word or two: `API server`, `pod greeter-5d4f`.
        level: `ok`; `note` for something worth knowing that does no harm; `problem` for
            something that keeps it from working.
        text: What it found, as a clause for people.
        fix: What to do about it; may have several lines (an RBAC rule). Empty if
            there is nothing to do.
    """

    check: str
    level: Level
    text: str
    fix: str = ""
