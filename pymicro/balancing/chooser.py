"""Which of a service's nodes are used at all; a balancer chooses among those.

The connections know what is reachable, the balancer knows what is best; this stands
between them. It leaves out nodes that fail for a while, prefers the own zone, and
warms up new nodes. Pure: the client and the simulator run the same code.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from operator import attrgetter

from pymicro.balancing.balancer import CANCELLED, Balancer, CallInfo, Outcome, Pick, PlainPick
from pymicro.balancing.policy.outliers import FAILURES, PATIENCE, History, Outliers, most_out
from pymicro.balancing.policy.warming import Warming
from pymicro.balancing.policy.zones import in_zone
from pymicro.base.errors import NoNode
from pymicro.base.loggers import logger
from pymicro.base.recorder import TargetRecord
from pymicro.nodes.node import EMPTY, Node, NodeSet, differing

__all__ = ["Chooser", "ChooserView"]

# Ejections are news about calls, for readers of the client's log.
log = logger("pymicro.client")

# Draws, besides one for each warming node, before a call takes a node it should spare:
# a balancer that prefers idle nodes may offer the same one again and again.
DRAWS = 8

_key = attrgetter("key")


def nothing() -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ChooserView:
    """What a chooser knows of one node.

    Attributes:
        ejected: Why it is ejected; empty if it is not.
        probe_in: Seconds until a call may probe it, if it is ejected.
        probing: Whether a call probes it now.
        warming: Whether it warms up, and gets fewer calls.
        figures: What the balancer keeps of it, if that tells; `latency` is in seconds.
    """

    ejected: str
    probe_in: float
    probing: bool
    warming: bool
    figures: Mapping[str, float]


class Chooser:
    """Puts ejection, zones and slow start around any balancer.

    Args:
        balancer: Chooses among the nodes in use; belongs to this chooser from now on.
        ejection: Whether nodes that fail are left out.
        zone: The zone of this process, which is preferred; empty for none.
        slow_start: Seconds until a new node has its full share; 0 for at once.
        changed: Called when `update` should be called again: a node was ejected or
            is back. It may call `update` itself.
        clock: Seconds.
        rng: Source of randomness.

    Attributes:
        changed: As given; may be set later.
        record: Where ejections are counted; None if they are not.
        panicking: Whether so few nodes are well that all reachable ones are used.
        used: The nodes that the balancer chooses among.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        ejection: bool = True,
        zone: str = "",
        slow_start: float = 0.0,
        changed: Callable[[], None] = nothing,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._balancer = balancer
        self._ejection = ejection
        self._zone = zone
        self.changed = changed
        self._clock = clock
        self._rng = rng or random.Random()
        # Clients of one zone must not all fill it up with the same nodes from outside.
        self._seed = self._rng.randbytes(16).hex()
        self._outliers = Outliers(clock(), self._rng.uniform)
        self._records = self._outliers.histories
        self._everyone = self._outliers.everyone
        self._slow_start = slow_start > 0
        self._warming = Warming(slow_start)
        self._nodes = self._reachable = EMPTY
        self._arrived: set[str] = set()
        self._failed = 0
        self._probeable: dict[str, Node] = {}
        self._next_probe = -inf
        # Whether a pick needs more than the balancer.
        self._special = False
        self.panicking = False
        self.used = EMPTY
        self.record: TargetRecord | None = None

    @property
    def ejected(self) -> frozenset[str]:
        """Keys of the nodes that are ejected now."""
        return frozenset(self._outliers.ejected)

    def about(self, key: str) -> ChooserView:
        """What is known of one node at present, for people."""
        now = self._clock()
        history = self._outliers.ejected.get(key)
        figures = getattr(self._balancer, "figures", None)
        found = figures(key) if figures is not None else None
        return ChooserView(
            ejected=history.reason if history is not None else "",
            probe_in=max(0.0, history.due - now) if history is not None else 0.0,
            probing=history is not None and history.probe is not None,
            warming=key in self._warming,
            figures=dict(found) if found is not None else {},
        )

    def counts(self) -> dict[str, int]:
        """How many nodes are in which state; one may be in several."""
        out = self._outliers.ejected
        return {
            "usable": len(self.used),
            "ejected": len(out),
            "probing": sum(history.probe is not None for history in out.values()),
            "warming": len(self._warming),
            "other_zone": 0
            if self.panicking
            else len(self._reachable) - len(self._probeable) - len(self.used),
        }

    # What there is

    def update(self, nodes: NodeSet, reachable: NodeSet, failed: int = 0) -> None:
        """Take new sets, and give the balancer the nodes to use.

        Of the reachable nodes, ejected ones are not used, and nodes outside the zone only
        as far as the zone needs them. If fewer than half of the nodes are well (not ejected
        and connectable), all reachable ones are used: the rest would be overrun (Envoy's
        panic threshold of 50 %).

        Args:
            nodes: All nodes of the service; each has a history as long as it is here.
            reachable: The nodes on which a call may start now.
            failed: How many nodes cannot be connected to.
        """
        now = self._clock()
        if nodes is not self._nodes:
            self._follow(nodes, now)
        if self._slow_start:
            self._welcome(reachable, now)
        self._nodes, self._reachable, self._failed = nodes, reachable, failed
        out = self._outliers.ejected
        self._probeable = {node.key: node for node in reachable if node.key in out} if out else {}
        self._next_probe = -inf
        self._attend()
        self.used = self._those_to_use()
        self._balancer.update(nodes, self.used)

    def _follow(self, nodes: NodeSet, now: float) -> None:
        """Forget the nodes that left."""
        gone, present = differing(self._nodes, nodes)
        kept = {node.key for node in present}
        left = [node.key for node in gone if node.key not in kept]
        if self._ejection:
            self._outliers.keep(left, kept, now)
        for key in left:
            self._warming.left(key)
            self._arrived.discard(key)

    def _welcome(self, reachable: NodeSet, now: float) -> None:
        """Warm up nodes that are reachable for the first time, if others were reachable before."""
        for node in differing(self._reachable, reachable)[1]:
            if node.key not in self._arrived:
                self._arrived.add(node.key)
                if self._reachable:
                    self._warming.joined(node.key, now)
        self._warming.review(len(reachable), now)

    def _those_to_use(self) -> NodeSet:
        reachable, out = self._reachable, self._probeable
        self.panicking = 2 * (len(out) + self._failed) > len(reachable) + self._failed
        if self.panicking:
            return reachable
        if out:
            reachable = NodeSet(tuple(node for node in reachable if node.key not in out))
        return in_zone(self._nodes, reachable, self._zone, self._seed)

    def reconnected(self, key: str) -> None:
        """The node's connection was lost and made again: probe it at once."""
        history = self._outliers.ejected.get(key)
        if history is not None:
            history.due = -inf
            # A probe on the lost connection will get no answer.
            history.probe = None
            self._next_probe = -inf

    # A call begins

    def pick(self, call: CallInfo) -> Pick:
        """A node for a call; pass the pick to `done` when the call ends.

        Raises:
            NoNode: The call was tried on all reachable nodes, or there are none.
        """
        try:
            if self._special:
                return self._pick_specially(call)
            return self._balancer.pick(call)
        except NoNode:
            pick = self._pick_beyond(call)
            if pick is None:
                raise
            return pick

    def _pick_specially(self, call: CallInfo) -> Pick:
        now = self._clock()
        # A retry never probes a doubtful node: it may be the call's last attempt.
        if now >= self._next_probe and not call.tried:
            probe = self._due(now)
            if probe is not None:
                return probe
        return self._pick_sparing(call, now) if self._warming.ramping else self._balancer.pick(call)

    def _due(self, now: float) -> Pick | None:
        """The pick of a node whose probe is due, if there is one."""
        soonest = inf
        for key, node in self._probeable.items():
            history = self._outliers.ejected.get(key)
            if history is not None:
                if history.due <= now:
                    return _probe(history, node, now)
                soonest = min(soonest, history.due)
        self._next_probe = soonest
        return None

    def _pick_sparing(self, call: CallInfo, now: float) -> Pick:
        """Pick, passing over a warming node as often as its share says."""
        warming = self._warming
        for _ in range(DRAWS + len(warming)):
            pick = self._balancer.pick(call)
            if self._rng.random() < warming.share(pick.node.key, now):
                break
            pick.done(CANCELLED)
        else:
            pick = self._balancer.pick(call)
        self._attend()
        return pick

    def _pick_beyond(self, call: CallInfo) -> Pick | None:
        """A reachable node that is not preferred; better than none at all."""
        out = self._outliers.ejected
        untried = [node for node in self._reachable if node.key not in call.tried]
        if not untried:
            return None
        node = self._rng.choice([node for node in untried if node.key not in out] or untried)
        history = out.get(node.key)
        now = self._clock()
        if history is not None and history.due <= now:
            return _probe(history, node, now)
        return PlainPick(node)

    # A stream goes on

    def answered(self, pick: Pick) -> None:
        """The first response of a stream has come; its end may be far away. Call this at most once.

        A node whose probe is a stream is back now, not at its end.
        """
        tell = getattr(pick, "answered", None)
        if tell is not None:
            tell()
        history = self._records.get(pick.node.key)
        if history is not None and history.out:
            self._answered(history, pick)

    # A call has ended

    def done(self, pick: Pick, outcome: Outcome, late: bool = False) -> None:
        """A call has ended. Call this exactly once for each pick.

        Args:
            pick: The pick as `pick` returned it.
            outcome: How the call ended.
            late: This process was blocked meanwhile: the outcome says nothing about the node.
        """
        if late or outcome.code:
            self._judge(pick, outcome, late)
            return
        pick.done(outcome)
        try:
            history = self._records[pick.node.key]
        except KeyError:
            return
        if history.out:
            self._answered(history, pick)
        else:
            history.successes += 1
            self._everyone.successes += 1

    def _judge(self, pick: Pick, outcome: Outcome, late: bool) -> None:
        pick.done(CANCELLED if late else outcome)
        history = self._records.get(pick.node.key)
        if history is None:
            return
        if late or outcome.local:
            if history.probe is pick:
                history.probe = None
                history.due = self._next_probe = -inf
        elif outcome.code not in FAILURES:
            if history.out:
                self._answered(history, pick)
            else:
                history.successes += 1
                self._everyone.successes += 1
        elif not history.out:
            now = self._clock()
            reason = self._outliers.fail(history, now)
            if reason and self._can_spare(pick.node.key):
                self._probeable[pick.node.key] = pick.node
                self._attend()
                self._eject(pick.node, f"{reason}, the last with status {outcome.code}", now)
                if self.record is not None:
                    self.record.ejected[history.method] += 1
                self.changed()
            elif reason and self.record is not None:
                self.record.not_ejected += 1
        elif history.probe is pick:
            self._eject(pick.node, f"its probe failed with status {outcome.code}", self._clock())

    def _can_spare(self, key: str) -> bool:
        """Whether a node may be ejected at present."""
        nodes, out = self._reachable.nodes, len(self._probeable)
        place = bisect_left(nodes, key, key=_key)
        # A node that is no longer reachable gets no calls anyway.
        reachable = place < len(nodes) and nodes[place].key == key
        return reachable and out < most_out(len(nodes) + self._failed) and len(nodes) - out > 1

    def _eject(self, node: Node, reason: str, now: float) -> None:
        seconds = self._outliers.eject(node.key, now)
        self._records[node.key].reason = reason
        self._next_probe = -inf
        log.info("%s: node %s is ejected for %.1f s: %s", node.service, node.key, seconds, reason)

    def _answered(self, history: History, pick: Pick) -> None:
        """A call on an ejected node succeeded. Only a probe counts: others began before the ejection."""
        if history.probe is pick:
            node = pick.node
            seconds = self._outliers.back(node.key, self._clock())
            self._probeable.pop(node.key, None)
            self._attend()
            log.info("%s: node %s is back after %.1f s: its probe succeeded", node.service, node.key, seconds)
            self.changed()

    def _attend(self) -> None:
        self._special = bool(self._probeable) or self._warming.ramping


def _probe(history: History, node: Node, now: float) -> Pick:
    pick = PlainPick(node)
    history.probe = pick
    history.due = now + PATIENCE
    return pick
