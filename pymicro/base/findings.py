"""What a check found: the lines of `pymicro doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and how it is.

    Attributes:
        check: What was looked at, in a word or two: `API server`, `pod greeter-5d4f`.
        level: `ok`; `note` for what is worth knowing and keeps nothing from
            working; `problem` for what does.
        text: What was found, as a clause for people.
        fix: What to do about it; may have several lines (an RBAC rule). Empty
            where there is nothing to do.
    """

    check: str
    level: Level
    text: str
    fix: str = ""
