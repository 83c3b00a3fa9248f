"""What a process has counted, read from its page `/stats`, and the figures between two readings of it.

A page is what some peer sent: what has another form than ours counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

__all__ = [
    "Change",
    "Counted",
    "Inside",
    "Reading",
    "SeenNode",
    "SeenSet",
    "SeenWatch",
    "changes",
    "read_inside",
    "read_nodes",
    "read_stats",
    "together",
]

# Of one process; its recorder keeps no more apart.
MOST_METHODS = 2000
MOST_NODES = 2000
MOST_WATCHES = 1000
MOST_CUTS = 10
_LONGEST = 300
_BIGGEST = 1 << 62


@dataclass(frozen=True, slots=True)
class Counted:
    """The calls of one method since the start of a process.

    Attributes:
        in_flight: Those that have not ended.
        statuses: How many ended with each status, by its number.
        bounds: Upper bounds of durations in seconds.
        counts: How many took as long; one more than bounds.
    """

    in_flight: int
    statuses: Mapping[str, int]
    bounds: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One page.

    Attributes:
        process: Tells a process from the one that was there before.
        seconds: When it was written, on the clock of the process.
        served: What it served, by method.
        called: What it called, by service and method.
    """

    process: int
    seconds: float
    served: Mapping[str, Counted]
    called: Mapping[tuple[str, str], Counted]


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to some calls between two readings.

    Attributes:
        calls: How many ended in a second.
        errors: How many of them ended otherwise than OK.
        in_flight: How many have not ended, at the second reading.
        bounds: Upper bounds of durations in seconds.
        counts: How many took as long.
    """

    calls: float
    errors: float
    in_flight: int
    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    def quantile(self, share: float) -> float | None:
        """Seconds within which this share of the calls ended; None if none did.

        Within a bucket, durations count as evenly spread, as in Prometheus' `histogram_quantile`.
        """
        total = sum(self.counts)
        if not total:
            return None
        rank, below, low = share * total, 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return low + (bound - low) * max(0.0, rank - below) / count
            below, low = below + count, bound
        return self.bounds[-1] if self.bounds else None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        return {
            "calls_per_second": round(self.calls, 3),
            "errors_per_second": round(self.errors, 3),
            "p50_seconds": round(p50, 6) if p50 is not None else None,
            "p99_seconds": round(p99, 6) if p99 is not None else None,
            "in_flight": self.in_flight,
        }


@dataclass(frozen=True, slots=True)
class SeenNode:
    """A node as one client sees it.

    Attributes:
        service: The service that it is a node of.
        address: Where it is called.
        called: Whether it is.
        why_not: Why it is not.
        in_flight: Calls on its connection.
        latency: As the balancer knows it, in seconds; None if it does not.
    """

    service: str
    address: str
    called: bool
    state: str
    why_not: str
    in_flight: int
    latency: float | None


@dataclass(frozen=True, slots=True)
class SeenSet:
    """The nodes of one service, as a process has them of its registry.

    Attributes:
        age: Seconds since the registry gave or confirmed them; None if it never did.
        error: Why it does not do so any more; empty if it does.
        failing: For how many seconds it has not.
    """

    service: str
    age: float | None
    error: str
    failing: float | None


@dataclass(frozen=True, slots=True)
class SeenWatch:
    """One watch of a process's registry.

    Attributes:
        cuts: How often it ended otherwise than agreed.
        recent: How many seconds ago the last of these were, each with its reason.
        resumes: Whether it goes on where it was.
    """

    what: str
    connected: bool
    cuts: int
    recent: tuple[tuple[float, str], ...]
    resumes: bool


@dataclass(frozen=True, slots=True)
class Inside:
    """What a service says of its own registration, and of its registry.

    Attributes:
        registered: Whether its node is registered.
        registration_error: Why not; empty if it is, or does not want to be.
        serves_nothing: Whether it has no method that could be called.
        sets: Of the services that it watches.
        watches: What brings these.
    """

    registered: bool
    registration_error: str
    serves_nothing: bool
    sets: tuple[SeenSet, ...]
    watches: tuple[SeenWatch, ...]


def read_inside(page: Any) -> Inside:
    """What a page `/nodes` says of the process itself.

    Raises:
        ValueError: It says nothing of a service.
    """
    page = _mapping(page)
    service, registry = _mapping(page.get("service")), _mapping(page.get("registry"))
    if not service:
        raise ValueError("it is no service's")
    sets = [
        SeenSet(
            service=_text(one.get("service")),
            age=_seconds(one.get("age_seconds")),
            error=_text(one.get("error")),
            failing=_seconds(one.get("failing_seconds")),
        )
        for one in map(_mapping, _list(registry.get("watched"))[:MOST_WATCHES])
    ]
    watches = []
    for one in map(_mapping, _list(registry.get("watches"))[:MOST_WATCHES]):
        recent = tuple(
            (cut["seconds"], _text(cut.get("why")))
            for cut in map(_mapping, _list(one.get("recent_cuts"))[:MOST_CUTS])
            if _is_number(cut.get("seconds")) and cut["seconds"] >= 0
        )
        watches.append(
            SeenWatch(
                what=_text(one.get("what")),
                connected=_seconds(one.get("connected_seconds")) is not None,
                cuts=sum(_count(count) for _, count in _some(one.get("cuts"))),
                recent=recent,
                resumes=one.get("resumes") is True,
            )
        )
    error = "" if service.get("registered") is True else _text(service.get("registration_error"))
    return Inside(
        registered=service.get("registered") is True,
        registration_error=error,
        serves_nothing=service.get("methods") == 0,
        sets=tuple(sets),
        watches=tuple(watches),
    )


def read_stats(page: Any) -> Reading:
    """A page `/stats`.

    Raises:
        ValueError: It is none.
    """
    page = _mapping(page)
    if page.get("format") != 1:
        raise ValueError("its figures have a form that this version of pymicro does not know")
    served = _methods(_mapping(page.get("server")).get("methods"))
    called = {
        (_text(service), method): counted
        for service, target in _some(page.get("client"))
        for method, counted in _methods(_mapping(target).get("methods")).items()
    }
    return Reading(_count(page.get("pid")), _number(page.get("seconds")), served, called)


def read_nodes(page: Any) -> list[SeenNode]:
    """The nodes in a page `/nodes`."""
    found: list[SeenNode] = []
    for target in _list(_mapping(page).get("targets")):
        target = _mapping(target)
        for node in _list(target.get("nodes")):
            node = _mapping(node)
            if len(found) == MOST_NODES:
                return found
            latency = _number(node.get("latency_seconds"))
            found.append(
                SeenNode(
                    service=_text(target.get("service")),
                    address=_text(node.get("address")),
                    called=node.get("called") is True,
                    state=_text(node.get("state")),
                    why_not=_text(node.get("why_not")),
                    in_flight=_count(node.get("in_flight")),
                    latency=latency or None,
                )
            )
    return found


def changes(
    before: Reading | None, after: Reading
) -> tuple[dict[str, Change], dict[tuple[str, str], Change]]:
    """What happened to the calls served and to the calls made, by method."""
    if before is None or before.process != after.process or after.seconds <= before.seconds:
        return {}, {}
    seconds = after.seconds - before.seconds
    served = {
        method: _change(before.served.get(method), counted, seconds)
        for method, counted in after.served.items()
    }
    called = {key: _change(before.called.get(key), counted, seconds) for key, counted in after.called.items()}
    return served, called


def together(parts: Iterable[Change]) -> Change:
    """Several as one; the durations of those whose bounds are the first one's."""
    calls = errors = 0.0
    in_flight = 0
    bounds: tuple[float, ...] = ()
    counts: list[int] = []
    for part in parts:
        calls, errors, in_flight = calls + part.calls, errors + part.errors, in_flight + part.in_flight
        if not counts:
            bounds, counts = part.bounds, list(part.counts)
        elif part.bounds == bounds:
            counts = [one + other for one, other in zip(counts, part.counts, strict=True)]
    return Change(calls, errors, in_flight, bounds, tuple(counts))


def _change(before: Counted | None, after: Counted, seconds: float) -> Change:
    same = before is not None and before.bounds == after.bounds
    earlier: Sequence[int] = before.counts if before is not None and same else [0] * len(after.counts)
    ended = _ended(after, before)
    ok = after.statuses.get("0", 0) - (before.statuses.get("0", 0) if before is not None else 0)
    return Change(
        calls=max(0, ended) / seconds,
        errors=max(0, ended - ok) / seconds,
        in_flight=after.in_flight,
        bounds=after.bounds,
        counts=tuple(max(0, now - then) for now, then in zip(after.counts, earlier, strict=True)),
    )


def _ended(after: Counted, before: Counted | None) -> int:
    return sum(after.statuses.values()) - (sum(before.statuses.values()) if before is not None else 0)


def _methods(value: Any) -> dict[str, Counted]:
    found = {}
    for path, method in _some(value):
        method = _mapping(method)
        seconds = _mapping(method.get("seconds"))
        bounds = tuple(map(_number, _list(seconds.get("bounds"))[:100]))
        counts = tuple(map(_count, _list(seconds.get("counts"))[:101]))
        if len(counts) != len(bounds) + 1 or list(bounds) != sorted(bounds):
            bounds, counts = (), (0,)
        statuses = {str(code)[:3]: _count(count) for code, count in _some(method.get("statuses"))}
        found[_text(path)] = Counted(_count(method.get("in_flight")), statuses, bounds, counts)
    return found


def _some(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(_mapping(value).items())[:MOST_METHODS]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else 0.0


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < _BIGGEST and isfinite(value)


def _seconds(value: Any) -> float | None:
    """How long ago, or for how long; None for what is no such thing."""
    return max(0.0, float(value)) if _is_number(value) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _BIGGEST else 0
