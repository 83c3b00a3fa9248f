"""Counts that fade with time."""

from __future__ import annotations

from math import expm1

__all__ = ["decay"]


def decay(elapsed: float, memory: float) -> tuple[float, float]:
    """How much of a fading count is left.

    Args:
        elapsed: Seconds since the count was updated; below 0 means 0.
        memory: The count's time constant in seconds: after that time 1/e of it is left.

    Returns:
        The share left of what had been counted by then, and the share left of what was counted
        since, at unknown moments: it is taken to be spread evenly over `elapsed`.
    """
    ages = elapsed / memory
    if ages <= 1e-9:
        return 1.0, 1.0
    gone = -expm1(-ages)
    return 1.0 - gone, gone / ages
