"""Which reachable nodes fail: when they are left out, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pymicro.balancing.policy.decay import decay

__all__ = ["FAILURES", "PATIENCE", "Counts", "History", "Outliers", "most_out"]

# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the answers
# of a broken node, like 5xx in HTTP. The others are answers about the request;
# RESOURCE_EXHAUSTED comes from a node that works at its limit.
FAILURES = frozenset({2, 4, 12, 13, 14, 15})

# Envoy's `consecutive_5xx`, and Finagle's failure accrual.
IN_A_ROW = 5
# Envoy's and gRFC A50's interval of 10 s, as the time constant of fading counts.
WINDOW = 10.0
# Among fewer calls, a rate means nothing. Envoy asks for 50 (`failure_percentage_request_volume`)
# and 85 %; but if half of a node's calls fail and the others' do not, that is bad enough.
LEAST_CALLS = 20
RATE = 0.5
# "Clearly worse": the node fails at least this many times as often as the others. If all
# fail alike, no node is at fault, but the request or something behind the nodes.
WORSE = 2.0
# Seconds. Envoy begins with 30 s, since its hosts come back without proof. Here one probe call
# decides, so that a hiccup costs a second.
SHORTEST = 1.0
LONGEST = 60.0
# A thousand clients that ejected one node must not all probe it in the same second.
JITTER = 0.2
# Seconds back in service after which one doubling is forgotten: gRFC A50 and Envoy
# take one from the multiplier for each interval in which a node is not ejected.
FORGET = 10.0
# Envoy's `max_ejection_percent` of 10, "at least one host regardless".
MOST = 10  # one in this many
# Seconds to wait for a probe's answer: a probe may be a stream that lasts for hours, and
# must not keep its node out for so long. Twice the default timeout of a call.
PATIENCE = 10.0


class Counts:
    """Successes and failures, fading within about ten seconds.

    Attributes:
        successes: Successes since the last update. A successful call only adds one
            here and costs nothing else.
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
        """Count a failure, and bring all counts up to date."""
        left, spread = decay(now - self._looked, WINDOW)
        self.succeeded = self.succeeded * left + self.successes * spread
        self.failed = self.failed * left + 1.0
        self.successes = 0
        self._looked = now


class History(Counts):
    """What is remembered of one node.

    Attributes:
        out: Whether it is ejected.
        since: The moment it went out or came back.
        due: If it is out: the moment from which a call may probe it.
        probe: The pick of that call, until its answer comes.
        reason: Why it was ejected last.
    """

    __slots__ = ("doublings", "due", "in_a_row", "out", "probe", "reason", "since")

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self.in_a_row = 0
        self.doublings = 0
        self.out = False
        self.since = now
        self.due = 0.0
        self.probe: object | None = None
        self.reason = ""

    @property
    def method(self) -> str:
        """What shows that it is an outlier: gRFC A91's word, or ours where it has none."""
        return "consecutive_failures" if self.in_a_row >= IN_A_ROW else "failure_percentage"


class Outliers:
    """The histories of a service's nodes.

    A node is an outlier after five failures in a row. It also is one if at least half of
    twenty calls or more within about ten seconds failed and the other nodes do clearly
    better. It is out for a second at first, twice as long each time after, at most a minute,
    20 % more or less; in service, doublings are slowly forgotten. Then one call probes it:
    if that succeeds the node is back, otherwise it is out for longer.

    The caller decides how many may be out (`most_out`).

    Attributes:
        histories: By node key.
        ejected: The keys of the nodes that are out.
        everyone: The counts of all nodes together.

    Args:
        now: The present moment.
        uniform: Source of randomness, `(low, high) -> value`.
    """

    def __init__(self, now: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.histories: dict[str, History] = {}
        self.ejected: dict[str, History] = {}
        self.everyone = Counts(now)

    def keep(self, gone: Iterable[str], present: Iterable[str], now: float) -> None:
        """Drop the histories of nodes that are gone, and open one for each new node."""
        for key in gone:
            self.histories.pop(key, None)
            self.ejected.pop(key, None)
        for key in present:
            if key not in self.histories:
                self.histories[key] = History(now)

    def fail(self, history: History, now: float) -> str:
        """Count a failure of a node in service; return why to eject it, or nothing."""
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
        # Without calls on other nodes, there is nothing to compare with.
        if others < LEAST_CALLS or history.failed * others < WORSE * others_failed * calls:
            return ""
        return f"{history.failed / calls:.0%} of about {calls:.0f} calls failed"

    def eject(self, key: str, now: float) -> float:
        """Put a node out, or keep it out after its probe failed; return seconds until the next probe."""
        history = self.histories[key]
        if not history.out:
            history.doublings = max(0, history.doublings - int((now - history.since) / FORGET))
            history.out = True
            history.since = now
            self.ejected[key] = history
            # The node is out, so its failures no longer count for everyone.
            self.everyone.failed = max(0.0, self.everyone.failed - history.failed)
            self.everyone.succeeded = max(0.0, self.everyone.succeeded - history.succeeded)
        seconds = min(LONGEST, SHORTEST * 2.0**history.doublings) * self._uniform(1 - JITTER, 1 + JITTER)
        # No more doublings than reach the longest time: forgetting one later must show.
        if SHORTEST * 2.0**history.doublings < LONGEST:
            history.doublings += 1
        history.due = now + seconds
        history.probe = None
        return seconds

    def back(self, key: str, now: float) -> float:
        """Take a node back into service; return the seconds it was out."""
        history = self.ejected.pop(key)
        seconds = now - history.since
        history.out = False
        history.since = now
        history.probe = None
        history.in_a_row = 0
        history.start(now)
        return seconds


def most_out(nodes: int) -> int:
    """How many of this many nodes may be ejected at a time: a tenth, rounded down, but at least one."""
    return max(1, nodes // MOST)
