"""Durations as go-micro's flags write them: `500ms`, `1m30s`, or plain seconds."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from pymicro.base.printable import excerpt

__all__ = ["FOREVER", "format_duration", "parse_duration", "time_limit"]

# Seconds, some thirty years. What waits computes with nanoseconds in 64 bits, and fails or ends at once
# when it is told to wait for much longer.
FOREVER: Final = 1e9

# The units of Go's time.ParseDuration; both micro signs are in use.
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds from a Go duration or a plain number of seconds.

    Raises:
        ValueError: The text is neither, or is negative, or longer than anybody waits.
    """
    stripped = text.strip()
    try:
        seconds = float(stripped)
    except ValueError:
        seconds, end = 0.0, 0
        # Not finditer: in a long number without a unit it would try from every digit.
        while part := _PART.match(stripped, end):
            seconds += float(part[1]) * _UNITS[part[2]]
            end = part.end()
        if not stripped or end != len(stripped):
            raise ValueError(f"{excerpt(text, 80)} is no duration (like 500ms, 5s, 1m30s)") from None
    if not 0 <= seconds <= FOREVER:
        raise ValueError(f"{excerpt(text, 80)} is no duration that can be waited for")
    return seconds


def time_limit(timeout: Any) -> float | None:
    """What `timeout=` means in code: seconds; None for no limit, as None and thirty years are.

    Raises:
        ValueError: It is no number of seconds.
    """
    try:
        if timeout is None or timeout >= FOREVER:
            return None
        if not math.isnan(timeout):
            found: float = timeout
            return found
    except TypeError:
        pass
    raise ValueError(f"timeout= is a number of seconds, and not {excerpt(timeout)}")


def format_duration(seconds: float) -> str:
    """A short, readable form: `250ms`, `5s`, `1m30s`."""
    if seconds < 1:
        return "0s" if seconds == 0 else f"{seconds * 1e3:g}ms"
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest:g}s" if rest else ""]
    return "".join(parts)
