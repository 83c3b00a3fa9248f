"""Growing pauses between tries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    Of the common schemes, full jitter (uniform between 0 and the ceiling) best spreads
    clients that lost one server in the same second (AWS Architecture Blog, "Exponential
    Backoff and Jitter").

    Attributes:
        initial: Ceiling of the first pause, in seconds.
        maximum: The ceiling never grows past this, in seconds.
        factor: The ceiling is multiplied by this after each pause.
        floor: Least pause, in seconds, so that a broken peer is not hammered.
        uniform: Source of randomness, `(low, high) -> value`.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    floor: float = 0.0
    uniform: Callable[[float, float], float] = random.uniform
    _ceiling: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ceiling = self.initial

    def next(self) -> float:
        """The next pause in seconds; the one after it may be longer."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * self.factor, self.maximum)
        return max(self.floor, self.uniform(0.0, ceiling))

    def reset(self) -> None:
        """Start again from `initial`, after things have gone well."""
        self._ceiling = self.initial
