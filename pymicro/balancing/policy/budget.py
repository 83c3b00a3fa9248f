"""How many retries a service may get, so that they cannot become a storm."""

from __future__ import annotations

import time
from collections.abc import Callable

from pymicro.balancing.policy.decay import decay

__all__ = ["Budget"]

# Calls between two looks at the clock: often enough that a quiet night and the busy minute
# after it are not averaged, rarely enough to cost nothing.
LOOK = 256


class Budget:
    """A token bucket for the retries of one service: a retry spends one, a success earns a fifth.

    What successes earn fades within about a second, so the bucket holds at most
    `share * memory` of a second's successes. It must hold that much, because all calls
    in flight on a killed node want a retry at once. It must hold no more, because in a
    full outage nothing is earned and the bucket is all there is: after two seconds of
    outage the attempts are at most 1.1 times the calls, not counting the reserve.

    The reserve is small and refilled slowly. It is there for clients that make few
    calls: a client with one call a second or less can retry most of them.

    Finagle's budget is the model (20 % of calls, and ten retries a second as a floor,
    over 10 s). Its window and its floor are too large for an amplification of 1.1: in
    ten seconds of an outage it would hand out two seconds' worth of calls as retries,
    and a client with 20 calls a second would go on with half as many retries for ever.

    Args:
        share: Tokens that a success earns.
        memory: Seconds in which earned tokens fade (time constant).
        reserve: Most tokens in the reserve, which is full at first.
        refill: Tokens that come back to the reserve, per second.
        clock: Seconds; `spend` gets readings of the same clock.
    """

    __slots__ = (
        "_clock",
        "_earned",
        "_looked",
        "_memory",
        "_most",
        "_refill",
        "_reserve",
        "_share",
        "_since",
    )

    def __init__(
        self,
        *,
        share: float = 0.2,
        memory: float = 1.0,
        reserve: float = 10,
        refill: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._memory = memory
        self._most = float(reserve)
        self._refill = refill
        self._clock = clock
        self._since = 0
        self._earned = 0.0
        self._reserve = self._most
        self._looked = clock()

    def succeeded(self) -> None:
        """A call succeeded. Every success calls this, so it only counts."""
        self._since += 1
        if self._since >= LOOK:
            self._look(self._clock())

    def spend(self, now: float) -> bool:
        """Whether a retry may be made; if so, take its token.

        Args:
            now: The reading of `clock`.
        """
        self._look(now)
        if self._earned + self._reserve < 1:
            return False
        # Spend the fading tokens first.
        earned = min(self._earned, 1.0)
        self._earned -= earned
        self._reserve -= 1 - earned
        return True

    def _look(self, now: float) -> None:
        elapsed = max(0.0, now - self._looked)
        left, spread = decay(elapsed, self._memory)
        self._earned = self._earned * left + self._since * self._share * spread
        self._reserve = min(self._most, self._reserve + self._refill * elapsed)
        self._since = 0
        self._looked = now
