"""Counts that fade with time."""

from __future__ import annotations

from math import expm1

__all__ = ["decay"]


def decay(elapsed: float, memory: float) -> tuple[float, float]:
    """What time does to a fading count.

    Args:
        elapsed: Seconds since the count was looked at; less than none is none.
        memory: Its time constant in seconds: after so long a share 1/e is left.

    Returns:
        What is left of one counted then, and what is left of one counted since,
        at a moment unknown: many of these are reckoned as spread evenly over `elapsed`.
    """
    ages = elapsed / memory
    if ages <= 1e-9:
        return 1.0, 1.0
    gone = -expm1(-ages)
    return 1.0 - gone, gone / ages
