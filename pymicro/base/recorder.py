"""What a process counts about its calls: written on the path of each call, read when somebody asks.

A counter of a metrics library costs a call 4 µs, a list and a `bisect` cost half of one. So
nothing here knows names, labels or formats of metrics: `pymicro.telemetry` makes those of it. All
of this runs in one event loop, and nothing is locked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from time import time
from typing import NamedTuple

__all__ = [
    "BOUNDS",
    "OTHER",
    "ClientMethodRecord",
    "Durations",
    "Exemplar",
    "Recorder",
    "ServerMethodRecord",
    "ServerRecord",
    "TargetRecord",
]

# Upper bounds in seconds, out of those that gRFC A66 proposes.
BOUNDS = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
# Upper bounds of how often a call was tried again; the most that `client_retries` allows is 10.
RETRIES = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
# The one name for all methods, and the one for all services, beyond what is kept apart. A caller may
# ask a server for any path, and a proxy may call any service: neither may fill a monitoring system.
OTHER = "other"
MOST_METHODS = 1000
MOST_TARGETS = 1000


class Exemplar(NamedTuple):
    """One of the things that were counted, which somebody can look at.

    Attributes:
        trace_id: Of the trace that it belongs to, in hex.
        span_id: Of its span there.
        value: What was counted.
        moment: When, in seconds since 1970.
    """

    trace_id: str
    span_id: str
    value: float
    moment: float


class Durations:
    """How many things took how long.

    Attributes:
        bounds: Upper bounds, ascending.
        counts: How many were within each bound and above the one before; the last of all above.
        total: The sum.
        exemplars: The last one within each bound that is in a trace that is kept, by the place in
            `counts`; None if there was none.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def exemplify(self, value: float, trace_id: str, span_id: str) -> None:
        """Say of what was counted just now where it can be looked at."""
        if self.exemplars is None:
            self.exemplars = {}
        place = bisect_left(self.bounds, value)
        self.exemplars[place] = Exemplar(trace_id, span_id, value, time())

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def plus(self, other: Durations) -> Durations:
        """Both together; with the same bounds."""
        both = Durations(self.bounds)
        both.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        if self.exemplars or other.exemplars:
            both.exemplars = dict(self.exemplars or {})
            for place, found in (other.exemplars or {}).items():
                before = both.exemplars.get(place)
                if before is None or before.moment < found.moment:
                    both.exemplars[place] = found
        return both


class _ByStatus(dict[int, Durations]):
    """Durations by the number of a status: an enum's hash is a function of Python's."""

    def __missing__(self, code: int) -> Durations:
        made = self[code] = Durations()
        return made


class ServerMethodRecord:
    """The calls of one method that was served.

    Attributes:
        started: How many have begun.
        ended: How long those took that have ended.
    """

    __slots__ = ("ended", "started")

    def __init__(self) -> None:
        self.started = 0
        self.ended = _ByStatus()

    def end(self, code: int, seconds: float) -> None:
        """A call has ended with the status of this number."""
        self.ended[code].add(seconds)

    @property
    def in_flight(self) -> int:
        """How many have not ended."""
        return self.started - sum(durations.count for durations in self.ended.values())


class ServerRecord:
    """The calls that one server got.

    Attributes:
        methods: By path; `OTHER` for all paths that nothing is known of.
        refused: How many calls no handler saw, by reason: `full`, `expired`, `unknown`, `denied`,
            `unauthenticated`.
    """

    def __init__(self) -> None:
        self.methods: dict[str, ServerMethodRecord] = {}
        self.refused: Counter[str] = Counter()

    def know(self, path: str) -> None:
        """Keep a method apart from others: the server has it, and it is not only a caller's word."""
        self.methods.setdefault(path, ServerMethodRecord())

    def method(self, path: str) -> ServerMethodRecord:
        """The record of a method, `/package.Service/Method`; that of `OTHER` for one that is not known."""
        found = self.methods.get(path)
        return found if found is not None else self.methods.setdefault(OTHER, ServerMethodRecord())

    def refuse(self, path: str, reason: str, code: int) -> None:
        """A call ended before a handler saw it, with the status of this number."""
        self.refused[reason] += 1
        method = self.method(path)
        method.started += 1
        method.end(code, 0.0)


class ClientMethodRecord:
    """The calls of one method of one service.

    Most calls are one attempt on one node, and are written down once: `calls()` and `attempts()`
    put together what both have in common.

    Attributes:
        started: How many attempts have begun.
        once: How long calls took that were one attempt.
        without: How long calls took that ended before there was an attempt.
        several: How long calls took that were more than one attempt.
        tries: How long the attempts of such calls took.
        retries: How often such calls were tried again.
        delays: How long such calls waited between two attempts, by our own choice.
    """

    __slots__ = ("delays", "once", "retries", "several", "started", "tries", "without")

    def __init__(self) -> None:
        self.started = 0
        self.once = _ByStatus()
        self.without = _ByStatus()
        self.several = _ByStatus()
        self.tries = _ByStatus()
        self.retries = Durations(RETRIES)
        self.delays = Durations()

    def calls(self) -> dict[int, Durations]:
        """How long calls took, by the number of the status they ended with."""
        return _sum(self.once, self.without, self.several)

    def attempts(self) -> dict[int, Durations]:
        """How long attempts took, by the number of the status they ended with."""
        return _sum(self.once, self.tries)


class TargetRecord:
    """What a client counts about one service that it calls.

    Attributes:
        methods: By path.
        added: How many nodes came, of those that the client chooses from.
        removed: How many of them left.
        connected: How often a connection was made.
        failed: How often one could not be made.
        disconnected: How often one was lost or closed.
        ejected: How often a node was left out for its failures, by what showed them.
        not_ejected: How often a failure was reason enough, but no more nodes could be left out.
        waits: How long calls waited for a node, if they had to.
        unretried: How many calls were not tried again because the retry budget was spent.
    """

    def __init__(self) -> None:
        self.methods: dict[str, ClientMethodRecord] = {}
        self.added = self.removed = 0
        self.connected = self.failed = self.disconnected = 0
        self.ejected: Counter[str] = Counter()
        self.not_ejected = 0
        self.waits = Durations()
        self.unretried = 0

    def method(self, path: str) -> ClientMethodRecord:
        """The record of one method, `/package.Service/Method`."""
        found = self.methods.get(path)
        if found is None:
            path = path if len(self.methods) < MOST_METHODS else OTHER
            found = self.methods.setdefault(path, ClientMethodRecord())
        return found


class Recorder:
    """What one service, or one client that is no service, counts.

    Attributes:
        server: The calls that it serves.
        targets: The services that it calls, by name. They stay when nobody calls them any more:
            a counter that vanishes and comes back from 0 looks like a restart.
        registry_errors: How often the registry failed: `watch`, when a service was watched, and
            `register`, when a node was registered.
        lag: How much later than meant the event loop did what was due.
    """

    def __init__(self) -> None:
        self.server = ServerRecord()
        self.targets: dict[str, TargetRecord] = {}
        self.registry_errors: Counter[str] = Counter()
        self.lag = Durations()

    def target(self, service: str) -> TargetRecord:
        """The record of one service that is called."""
        found = self.targets.get(service)
        if found is None:
            service = service if len(self.targets) < MOST_TARGETS else OTHER
            found = self.targets.setdefault(service, TargetRecord())
        return found


def _sum(*parts: Mapping[int, Durations]) -> dict[int, Durations]:
    together: dict[int, Durations] = {}
    for part in parts:
        for code, durations in part.items():
            before = together.get(code)
            together[code] = durations if before is None else before.plus(durations)
    return together
