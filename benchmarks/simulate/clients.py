"""Clients: pymicro's choice of nodes and its retries over modelled nodes, and a record of what they see."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping, Sequence

from benchmarks.simulate.servers import OK, UNAVAILABLE, Server
from benchmarks.simulate.world import World
from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Balancer, CallInfo, Pick
from pymicro.balancing.chooser import Chooser
from pymicro.balancing.policy.budget import Budget
from pymicro.balancing.policy.retry import Failure, RetryPolicy
from pymicro.base.errors import NoNode
from pymicro.nodes.node import Node, NodeSet

__all__ = ["Client", "Record", "arrivals", "nodes_of"]

DEADLINE_EXCEEDED = 4
_METHOD = "/simulated.v1.Service/Call"
_FIRST = CallInfo(_METHOD)
_STREAM = CallInfo("/simulated.v1.Service/Watch", streams=True)


def nodes_of(count: int, first: int = 0) -> list[Node]:
    """So many nodes, numbered."""
    return [
        Node(f"n{index:05}", f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}:1")
        for index in range(first, first + count)
    ]


class Record:
    """What happened, to be counted afterwards.

    Attributes:
        begun: When each call of a user that has ended began.
        took: How long it took.
        codes: How it ended.
        picked: When each attempt began.
        nodes: Which node it went to, by its place in `servers`.
        streams: How many streams each node has now, by its place in `servers`.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.places = {server.node.key: place for place, server in enumerate(servers)}
        self.begun = array("d")
        self.took = array("d")
        self.codes = array("b")
        self.picked = array("d")
        self.nodes = array("i")
        self.streams = [0] * len(servers)

    def latencies(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Of the calls that began then and were answered well or never, in order."""
        return sorted(
            took
            for begun, took, code in zip(self.begun, self.took, self.codes, strict=True)
            if since <= begun < until and code in (OK, DEADLINE_EXCEEDED)
        )

    def failed(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The share of calls that began then and did not end well."""
        codes = [code for begun, code in zip(self.begun, self.codes, strict=True) if since <= begun < until]
        return sum(code != OK for code in codes) / max(1, len(codes))

    def loads(self, since: float = 0.0, until: float = float("inf")) -> list[int]:
        """How many attempts each node got then."""
        counts = [0] * len(self.places)
        for moment, place in zip(self.picked, self.nodes, strict=True):
            if since <= moment < until:
                counts[place] += 1
        return counts

    def share(self, place: int, since: float = 0.0, until: float = float("inf")) -> float:
        """The share of attempts that one node got then."""
        loads = self.loads(since, until)
        return loads[place] / max(1, sum(loads))


class _Attempt:
    """One call on one node."""

    __slots__ = ("_call", "_pick", "deadline", "over")

    def __init__(self, call: _Call, pick: Pick) -> None:
        self._call = call
        self._pick = pick
        self.deadline = call.gives_up
        self.over = False

    def end(self, code: int, may_have_run: bool = True) -> None:
        """The server has answered."""
        if not self.over:
            self.over = True
            self._call.ended(self._pick, code, may_have_run)

    def time_out(self) -> None:
        """The deadline has come."""
        if not self.over:
            self.over = True
            self._call.timed_out(self._pick)


class _Call:
    """One call of a user, with all its attempts."""

    __slots__ = ("_attempts", "_begun", "_client", "_deadline", "_info", "gives_up")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._begun = client.world.now
        self._deadline = self._begun + client.deadline
        self._attempts = 0
        self._info = _FIRST
        self.gives_up = self._begun + client.patience

    def attempt(self) -> None:
        client = self._client
        try:
            pick = client.chooser.pick(self._info)
        except NoNode:
            client.over(self._begun, UNAVAILABLE)
            return
        self._attempts += 1
        client.start(pick, _Attempt(self, pick))

    def ended(self, pick: Pick, code: int, may_have_run: bool) -> None:
        client = self._client
        client.chooser.done(pick, OUTCOMES[code])
        if code == OK:
            client.budget.succeeded()
            client.over(self._begun, OK)
            return
        now = client.world.now
        failure = Failure(code, may_have_run, client.idempotent, self._attempts, self._deadline - now)
        pause = client.retries.pause(failure)
        if pause is None or not client.budget.spend(now):
            client.over(self._begun, code)
            return
        self._info = CallInfo(_METHOD, self._info.tried | {pick.node.key})
        client.world.at(now + pause, self.attempt)

    def timed_out(self, pick: Pick) -> None:
        client = self._client
        # With a patience below the deadline it is the user's own code that gives up.
        impatient = client.patience < client.deadline
        client.chooser.done(pick, CANCELLED if impatient else OUTCOMES[DEADLINE_EXCEEDED])
        client.over(self._begun, DEADLINE_EXCEEDED)


class Client:
    """One client process of one service.

    Args:
        world: Whose time it lives in.
        servers: By key; who answers.
        record: Where it is noted; may be shared.
        balancer: Chooses.
        rng: Its own source of randomness.
        nodes: Who is there.
        retries: The setting `client_retries`.
        budget: Whether retries have the budget's limit; False shows what would happen without.
        deadline: Seconds a call may take.
        patience: Seconds after which the user's code cancels, if that is before the deadline.
        ended: Told of each call that is over: a closed loop begins the next one.
    """

    def __init__(
        self,
        world: World,
        servers: Mapping[str, Server],
        record: Record,
        balancer: Balancer,
        rng: random.Random,
        nodes: NodeSet,
        *,
        ejection: bool = True,
        slow_start: float = 0.0,
        retries: int = 1,
        budget: bool = True,
        idempotent: bool = False,
        deadline: float = 5.0,
        patience: float | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.world = world
        self.retries = RetryPolicy(retries, uniform=rng.uniform)
        self.budget = Budget(clock=world.clock) if budget else _NoLimit()
        self.idempotent = idempotent
        self.deadline = deadline
        self.patience = deadline if patience is None else patience
        self._servers = servers
        self._record = record
        self._nodes = nodes
        self._ended = ended
        self.chooser = Chooser(
            balancer,
            ejection=ejection,
            slow_start=slow_start,
            changed=self._changed,
            clock=world.clock,
            rng=rng,
        )
        self._changed()

    def _changed(self) -> None:
        self.chooser.update(self._nodes, self._nodes)

    def see(self, nodes: NodeSet) -> None:
        """The registry lists these from now on, and all of them are connected."""
        self._nodes = nodes
        self._changed()

    def call(self) -> None:
        """A user begins a call."""
        _Call(self).attempt()

    def stream(self, first: float | None, lasts: float) -> None:
        """A user begins a stream, which costs its node nothing.

        Args:
            first: Seconds until its first response; None if it has none.
            lasts: Seconds until it ends.
        """
        world, streams = self.world, self._record.streams
        pick = self.chooser.pick(_STREAM)
        place = self._record.places[pick.node.key]

        def end() -> None:
            streams[place] -= 1
            self.chooser.done(pick, OUTCOMES[OK])

        streams[place] += 1
        if first is not None and first < lasts:
            world.at(world.now + first, self.chooser.answered, pick)
        world.at(world.now + lasts, end)

    def start(self, pick: Pick, attempt: _Attempt) -> None:
        record, key = self._record, pick.node.key
        record.picked.append(self.world.now)
        record.nodes.append(record.places[key])
        self._servers[key].submit(attempt)

    def over(self, begun: float, code: int) -> None:
        record = self._record
        record.begun.append(begun)
        record.took.append(self.world.now - begun)
        record.codes.append(code)
        if self._ended is not None:
            self._ended()


class _NoLimit(Budget):
    def spend(self, now: float) -> bool:
        return True


def arrivals(
    world: World,
    begin: Callable[[], None],
    rate: float,
    rng: random.Random,
    until: float,
    since: float = 0.0,
) -> None:
    """Calls that come at random, so many a second on average, whether or not others have ended (Poisson)."""

    def arrive() -> None:
        begin()
        moment = world.now + rng.expovariate(rate)
        if moment < until:
            world.at(moment, arrive)

    world.at(since + rng.expovariate(rate), arrive)
