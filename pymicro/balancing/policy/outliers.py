"""Which nodes fail although they can be reached: when they are left out, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pymicro.balancing.policy.decay import decay

__all__ = ["FAILURES", "PATIENCE", "Counts", "History", "Outliers", "most_out"]

# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: what a
# broken node says, as 5xx is in HTTP. The others are answers about the request; and
# RESOURCE_EXHAUSTED is that of a node which works at its limit.
FAILURES = frozenset({2, 4, 12, 13, 14, 15})

# Envoy's `consecutive_5xx`, and Finagle's failure accrual.
IN_A_ROW = 5
# Envoy's and gRFC A50's interval of 10 s, as the time constant of fading counts.
WINDOW = 10.0
# A rate means nothing among fewer calls. Envoy asks for 50 (`failure_percentage_request_volume`)
# and 85 %; but half of a node's calls failing is bad enough where the others' do not.
LEAST_CALLS = 20
RATE = 0.5
# "Clearly worse": failing at least so many times as often as the others. Where all
# fail alike it is no node's fault, but the request's or that of something behind them.
WORSE = 2.0
# Seconds. Envoy begins with 30 s, since its hosts come back unproved; here one probe call
# decides, so that a hiccup costs a second.
SHORTEST = 1.0
LONGEST = 60.0
# A thousand clients that ejected one node must not all probe it in the same second.
JITTER = 0.2
# One doubling is forgotten for so many seconds back in service: gRFC A50 and Envoy
# take one from the multiplier for each interval in which a node is not ejected.
FORGET = 10.0
# Envoy's `max_ejection_percent` of 10, "at least one host regardless".
MOST = 10  # one in so many
# Seconds to wait for a probe's answer: a probe may be a stream that lasts for hours,
# and must not keep its node out so long. Twice the default timeout of a call.
PATIENCE = 10.0


class Counts:
    """Successes and failures, fading within about ten seconds.

    Attributes:
        successes: Those nobody has looked at yet. Adding one here is all that a
            successful call costs.
    """

    __slots__ = ("_looked", "failed", "succeeded", "successes")

    def __init__(self, now: float) -> None:
        self.successes = 0
        self.start(now)

    def start(self, now: float) -> None:
        """Count from nothing."""
        self.successes = 0
        self.succeeded = 0.0
        self.failed = 0.0
        self._looked = now

    def fail(self, now: float) -> None:
        """Count a failure, and bring all up to date."""
        left, spread = decay(now - self._looked, WINDOW)
        self.succeeded = self.succeeded * left + self.successes * spread
        self.failed = self.failed * left + 1.0
        self.successes = 0
        self._looked = now


class History(Counts):
    """What is remembered of one node.

    Attributes:
        out: Whether it is ejected.
        since: Moment since which it is out, or in.
        due: If it is out: from when on a call may be sent there to see.
        probe: The pick of that call, while its answer is awaited.
    """

    __slots__ = ("doublings", "due", "in_a_row", "out", "probe", "since")

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self.in_a_row = 0
        self.doublings = 0
        self.out = False
        self.since = now
        self.due = 0.0
        self.probe: object | None = None


class Outliers:
    """The histories of a service's nodes.

    A node is an outlier after five failures in a row, or when at least half of twenty
    calls or more within about ten seconds failed and the other nodes do clearly better.
    It is out for a second at first, twice as long each time after, at most a minute,
    20 % more or less; doublings are forgotten slowly while it is in service. Then one
    call is sent there: if that succeeds the node is back, else it is out for longer.

    How many may be out is for the caller to say (`most_out`).

    Attributes:
        histories: By node key.
        ejected: Those of them that are out.
        everyone: The counts of all together.

    Args:
        now: The moment.
        uniform: Source of randomness, `(low, high) -> value`.
    """

    def __init__(self, now: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.histories: dict[str, History] = {}
        self.ejected: dict[str, History] = {}
        self.everyone = Counts(now)

    def keep(self, gone: Iterable[str], present: Iterable[str], now: float) -> None:
        """Drop the histories of those gone, and open one for each that is new."""
        for key in gone:
            self.histories.pop(key, None)
            self.ejected.pop(key, None)
        for key in present:
            if key not in self.histories:
                self.histories[key] = History(now)

    def fail(self, history: History, now: float) -> str:
        """Count a failure of a node that is in; why it should be ejected, or nothing."""
        history.in_a_row = 1 if history.successes else history.in_a_row + 1
        history.fail(now)
        self.everyone.fail(now)
        if history.in_a_row >= IN_A_ROW:
            return f"{history.in_a_row} calls in a row failed"
        calls = history.succeeded + history.failed
        if calls < LEAST_CALLS or history.failed < RATE * calls:
            return ""
        others_failed = max(0.0, self.everyone.failed - history.failed)
        others = others_failed + max(0.0, self.everyone.succeeded - history.succeeded)
        # Without calls elsewhere there is nothing to be worse than.
        if others < LEAST_CALLS or history.failed * others < WORSE * others_failed * calls:
            return ""
        return f"{history.failed / calls:.0%} of about {calls:.0f} calls failed"

    def eject(self, key: str, now: float) -> float:
        """Put a node out, or keep it out after its probe failed; seconds until the next probe."""
        history = self.histories[key]
        if not history.out:
            history.doublings = max(0, history.doublings - int((now - history.since) / FORGET))
            history.out = True
            history.since = now
            self.ejected[key] = history
            # Its failures are paid for, and no longer those of everyone.
            self.everyone.failed = max(0.0, self.everyone.failed - history.failed)
            self.everyone.succeeded = max(0.0, self.everyone.succeeded - history.succeeded)
        seconds = min(LONGEST, SHORTEST * 2.0**history.doublings) * self._uniform(1 - JITTER, 1 + JITTER)
        # No more than lead to the longest: what is forgotten later should show.
        if SHORTEST * 2.0**history.doublings < LONGEST:
            history.doublings += 1
        history.due = now + seconds
        history.probe = None
        return seconds

    def back(self, key: str, now: float) -> float:
        """Take a node in again; seconds it was out."""
        history = self.ejected.pop(key)
        seconds = now - history.since
        history.out = False
        history.since = now
        history.probe = None
        history.in_a_row = 0
        history.start(now)
        return seconds


def most_out(nodes: int) -> int:
    """How many of so many nodes may be ejected at a time: a tenth, rounded down, but one."""
    return max(1, nodes // MOST)
