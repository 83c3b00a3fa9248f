"""Balancer `p2c`: the better one of two random nodes, by calls in flight and latency."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from pymicro.balancing.balancer import CallInfo, Outcome, nothing_left
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["P2C"]

# `python -m benchmarks.simulate` found these numbers; benchmarks/simulate/README.md has the figures.

# Two latencies differ clearly if one is more than this many times the other. Finagle's peak EWMA
# compares latency * (calls in flight + 1) at any difference; then chance decides who is called.
_CLEAR = 2.0
# The weight of one answer from a node that is called all the time. Finagle's figure jumps to
# every higher latency: one garbage collection costs a node its calls for half a minute.
_WEIGHT = 1 / 32
# Seconds after which a node that nobody calls has half of its figures forgotten.
_MEMORY = 3.0
# No call counts for more than this many usual ones, and a failure counts for exactly as many. So any
# node is tried again after _MEMORY * (_WORST - _CLEAR) seconds, whatever it did.
_WORST = 16.0
# A node that is clearly slower is broken, not slow, if more than this share of its calls failed.
_FAILING = 1 / 16
# How often a call in flight counts on a node without figures, or with faded ones.
_UNKNOWN = 4
# Seconds for which a node has held streams until it counts as known to streams, if none got a response:
# many wait for events. Until then they count as calls on an unknown node do.
_HELD = 1.0
# The weight of one answer in the usual latency of all nodes.
_USUAL_WEIGHT = 1 / 64
# Seconds added to each latency: smaller ones tell more about our event loop than about a node.
_GRAIN = 0.001

# The codes that outlier ejection counts against a node, plus RESOURCE_EXHAUSTED: UNKNOWN, DEADLINE_EXCEEDED,
# RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_FAILURES = frozenset({2, 4, 8, 12, 13, 14, 15})
_DEADLINE_EXCEEDED = 4

# As in `random`: after this many misses, look for the few untried nodes.
_DRAWS = 8


class _Common:
    """What the nodes of one balancer share: the clock, and the usual latency (0 before an answer)."""

    __slots__ = ("answered", "clock", "usual")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.usual = 0.0
        self.answered = 0.0


class _Figures:
    """The figures of one node.

    Attributes:
        calls: Calls in flight, streams apart: how many a node has says nothing about how busy it is.
        streams: Streams in flight.
        since: When the first of these began.
        held: Whether a stream has been answered, or been there for a while.
        latency: A mean in seconds of calls that are no streams, as of `seen`; 0 before the first answer.
        failing: The share of failures in that mean.
        picked: When it was picked last.
    """

    __slots__ = (
        "calls",
        "common",
        "failing",
        "held",
        "latency",
        "node",
        "picked",
        "seen",
        "since",
        "streams",
    )

    def __init__(self, node: Node, common: _Common, now: float) -> None:
        self.node = node
        self.common = common
        self.calls = 0
        self.streams = 0
        self.since = now
        self.held = False
        self.latency = 0.0
        self.failing = 0.0
        self.seen = now
        self.picked = 0.0

    def now(self, moment: float, streams: bool) -> tuple[float, int]:
        """Latency and calls (or streams) in flight as they count at `moment`.

        The latency fades to the usual one, as 1 / (1 + t): a node that was k times as slow is
        tried again after _MEMORY * (k - _CLEAR) seconds, and then as carefully as a new one.
        """
        usual = self.common.usual
        latency = self.latency
        faded = usual
        if latency:
            faded += (latency - usual) * _MEMORY / (_MEMORY + moment - self.seen)
        if streams:
            if self.streams and moment - self.since >= _HELD:
                self.held = True
            return faded, self.streams if self.held else self.streams * _UNKNOWN
        clear = usual * _CLEAR
        careful = not latency or faded <= clear < latency
        return faded, self.calls * _UNKNOWN if careful else self.calls

    def come_back(self) -> None:
        """The node is usable again: it was reconnected, or its probe succeeded.

        So it is tried at once. A restarted node had its calls fail when it was killed; if that
        still counted, nobody would call it for half a minute.
        """
        self.held = False
        if self.latency > self.common.usual * _CLEAR:
            self.seen = -inf

    def fail(self, now: float) -> None:
        """A call failed: it counts as the longest one."""
        usual = self.common.usual
        if usual:  # else no node has answered anything, and this one is no worse than they
            latency, kept, weight = self.expected(now)
            self.latency = latency + (usual * _WORST - latency) * weight
            self.seen = now
            failing = self.failing * kept
            self.failing = failing + (1.0 - failing) * weight

    def answer(self, now: float) -> None:
        """A stream has been answered: the node is well, however long that took."""
        self.held = True
        common = self.common
        common.answered = now
        if not common.usual:
            common.usual = _GRAIN  # so that failures of streams count if there are no other calls
        elif self.latency:
            self.latency, kept, weight = self.expected(now)
            self.seen = now
            self.failing *= kept * (1.0 - weight)

    def expected(self, now: float) -> tuple[float, float, float]:
        """The latency faded until `now`, how much of it was kept, and the weight of a new answer."""
        usual = self.common.usual
        kept = _MEMORY / (_MEMORY + now - self.seen)
        # After a longer silence, the news counts for more.
        return usual + ((self.latency or usual) - usual) * kept, kept, max(_WEIGHT, 1.0 - kept)


class _Pick:
    """One call on one node."""

    __slots__ = ("_begun", "_figures", "node")

    def __init__(self, figures: _Figures, begun: float) -> None:
        self.node = figures.node
        self._figures = figures
        self._begun = begun

    def done(self, outcome: Outcome) -> None:
        """Stop counting the call as in flight, and learn from its end."""
        figures = self._figures
        figures.calls -= 1
        common = figures.common
        now = common.clock()
        took = now - self._begun + _GRAIN
        code = outcome.code
        usual = common.usual
        if code in _FAILURES:
            figures.fail(now)
            return
        if not usual:
            if code == 0:
                common.usual = figures.latency = took
                common.answered = figures.seen = now
            return
        if took > usual * _WORST:
            took = usual * _WORST
        latency, kept, weight = figures.expected(now)
        if code == 0:
            common.usual = usual + (took - usual) * _USUAL_WEIGHT
            common.answered = now
        elif took <= latency:
            # The call was cancelled, or ended with an error, which may be quick: neither makes a node fast.
            return
        elif outcome.local and 2 * common.answered < self._begun + now:
            # The call would have taken longer than its caller waited. But no other node has answered
            # in the second half of that time either, so our own process may have stood still.
            return
        figures.latency = latency + (took - latency) * weight
        figures.seen = now
        if figures.failing:
            figures.failing *= kept * (1.0 - weight)


class _Stream:
    """One stream on one node. Its length is no latency: it waits for events, or for its caller."""

    __slots__ = ("_answered", "_figures", "node")

    def __init__(self, figures: _Figures) -> None:
        self.node = figures.node
        self._figures = figures
        self._answered = False

    def answered(self) -> None:
        """The first response has come: the node is known from now on."""
        self._answered = True
        self._figures.answer(self._figures.common.clock())

    def done(self, outcome: Outcome) -> None:
        """Stop counting the stream as in flight; learn from its end only whether the node is well."""
        figures, code = self._figures, outcome.code
        figures.streams -= 1
        if code not in _FAILURES:
            if not outcome.local:
                self.answered()
        elif code != _DEADLINE_EXCEEDED or not self._answered:
            figures.fail(figures.common.clock())


class P2C:
    """Takes the one of two random nodes with fewer calls in flight, unless the other is clearly faster.

    Two choices are nearly as good as looking at all nodes, and cost the same for any number of
    them (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). Of two
    equals it picks the one picked longer ago, which makes the load nearly as even as in turn.

    A node's latency is a mean over its last answers, and fades while nobody calls it. If one
    node's is more than twice the other's, the product with the calls in flight decides, as in
    Finagle's peak EWMA. Failures count as long calls, so a node that fails at once attracts no
    calls. The wait of a cancelled call counts if other nodes have answered meanwhile. A node that
    became usable takes a quarter of the others' calls in flight until it has answered.

    Streams are counted apart from other calls, and how long they last is no latency. A node takes a
    quarter of the others' streams until one of its own was answered, or has been there for a second.

    Args:
        config: Every balancer gets it; this one reads nothing from it.
        rng: Source of randomness, for tests.
        clock: Seconds that never go back; for tests and simulations.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rng = rng or random.Random()
        self._random = self._rng.random
        self._clock = clock
        self._common = _Common(clock)
        self._figures: dict[str, _Figures] = {}  # of usable nodes
        self._away: dict[str, _Figures] = {}  # of nodes that were usable
        self._usable: list[_Figures] = []

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        """Choose among `usable` from now on; keep the figures of all in `nodes`.

        A node gets figures when it is first usable: of 10,000 nodes most never are.
        """
        before, away, common, now = self._figures, self._away, self._common, self._clock()
        self._figures = here = {}
        for node in usable:
            key = node.key
            figures = before.pop(key, None)
            if figures is None:
                figures = away.pop(key, None)
                if figures is None:
                    figures = _Figures(node, common, now)
                else:
                    figures.come_back()
            figures.node = node
            here[key] = figures
        self._usable = list(here.values())
        before |= away
        self._away = {}
        if before:
            self._away = {node.key: before[node.key] for node in nodes if node.key in before}

    def pick(self, call: CallInfo) -> _Pick | _Stream:
        """The better of two random nodes that the call was not tried on.

        Raises:
            NoNode: No node is usable, or the call was tried on all of them.
        """
        usable = self._usable
        count = len(usable)
        if call.tried or not count:
            one, other = self._untried(call)
        elif count == 1:
            one = other = usable[0]
        else:
            # Draw two different places, each pair equally often. randrange() is five times slower.
            draw = self._random
            place = int(draw() * count)
            one = usable[place]
            other = usable[place - 1 - int(draw() * (count - 1))]
        now = self._clock()
        streams = call.streams
        if streams or one.latency >= other.latency * _CLEAR or other.latency >= one.latency * _CLEAR:
            if _better(other, one, now, streams):
                one = other
        elif other.calls < one.calls or (other.calls == one.calls and other.picked < one.picked):
            one = other
        if one.failing > _FAILING:
            # If most nodes fail, both nodes of most pairs fail: look at two more.
            for other in self._untried(call):
                if _better(other, one, now, streams):
                    one = other
        one.picked = now
        if streams:
            if not one.streams:
                one.since = now
            one.streams += 1
            return _Stream(one)
        one.calls += 1
        return _Pick(one, now)

    def figures(self, key: str) -> dict[str, float] | None:
        """What it keeps of a node, as it counts now; None if that is nothing."""
        figures = self._figures.get(key) or self._away.get(key)
        if figures is None:
            return None
        latency, _ = figures.now(self._clock(), False)
        found = {"calls": figures.calls, "streams": figures.streams, "failing": round(figures.failing, 4)}
        return {**found, "latency": round(latency, 6)} if figures.latency else found

    def _untried(self, call: CallInfo) -> tuple[_Figures, _Figures]:
        """Two untried nodes; the same one twice if there is only one."""
        usable, tried = self._usable, call.tried
        if not usable:
            raise nothing_left(0, call)
        found: list[_Figures] = []
        for _ in range(_DRAWS):
            figures = usable[int(self._random() * len(usable))]
            if figures.node.key not in tried and figures not in found:
                found.append(figures)
                if len(found) == 2:
                    return found[0], found[1]
        untried = [figures for figures in usable if figures.node.key not in tried]
        if not untried:
            raise nothing_left(len(usable), call)
        one, other = self._rng.sample(untried, 2) if len(untried) > 1 else untried * 2
        return one, other


def _better(one: _Figures, other: _Figures, now: float, streams: bool) -> bool:
    """Whether to prefer `one`, by latency too if the two differ clearly."""
    latency, calls = one.now(now, streams)
    others_latency, others_calls = other.now(now, streams)
    if latency > others_latency * _CLEAR:
        # A node that fails has few calls in flight, because it is quick: no reason to prefer it.
        return one.failing < _FAILING and latency * (calls + 1) < others_latency * (others_calls + 1)
    if others_latency > latency * _CLEAR:
        return other.failing >= _FAILING or latency * (calls + 1) < others_latency * (others_calls + 1)
    return calls < others_calls or (calls == others_calls and one.picked < other.picked)
