"""What `pymicro top` does: asks every node again and again, and shows what happened in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import RegistryError
from pymicro.cli.admin_client import AdminError, read_pages
from pymicro.cli.clients import known_nodes, make_client, nobody
from pymicro.cli.readings import Change, Reading, SeenNode, changes, read_nodes, read_stats, together
from pymicro.cli.report import EXIT_FAILED, InputError, dump, note, on_terminal, say
from pymicro.cli.views import Form, open_view
from pymicro.nodes.address import join_address, split_address
from pymicro.nodes.wellknown import admin_port

if TYPE_CHECKING:
    from pymicro.client import Client

__all__ = ["TopQuestion", "show_top"]

# How many nodes are asked in a reading, and how many at a time: a look must cost a large service little.
MOST_NODES = 100
AT_ONCE = 20
MOST_SERVICES = 100
# Rows of methods and of nodes that clients see.
MOST_ROWS = 200

_HEADER = ["NODES", "CALLS/S", "ERRORS/S", "P50", "P99", "IN FLIGHT", "NOTE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopQuestion:
    """What to ask.

    Attributes:
        service: The service whose nodes are asked; None for all services.
        address: The only admin port to ask; None to look nodes up.
        interval: Seconds between two readings.
        timeout: Seconds a node has for its answer.
        count: How many times to show figures; None for no end.
    """

    service: str | None
    address: str | None
    interval: float
    timeout: float
    count: int | None


@dataclass(frozen=True, slots=True)
class _Place:
    """A process to ask.

    Attributes:
        name: For people.
        service: The service that it is a node of; empty if that is not known.
        host: Its host.
        port: Its admin port; None if its record names none.
    """

    name: str
    service: str
    host: str
    port: int | None


@dataclass(slots=True)
class _Told:
    """What one process told in a reading.

    Attributes:
        reading: What it counted; None if it told nothing.
        sees: The nodes that it sees.
        error: Why it told nothing.
    """

    place: _Place
    reading: Reading | None = None
    sees: list[SeenNode] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: the cells of `_HEADER`."""

    cells: tuple[str, ...]
    bad: bool = False
    title: bool = False


_FORM: dict[str, Any] = {
    "header": _HEADER,
    "row": lambda row: row.cells,
    "to_json": lambda row: list(row.cells),
    "colour": lambda row: "red" if row.bad else "bold" if row.title else "",
}


async def show_top(question: TopQuestion, argv: Sequence[str], output: str) -> int:
    """Show the figures again and again; return the exit code."""
    if question.address is not None:
        place = _at(question.address)

        async def alone() -> tuple[list[_Place], str]:
            return [place], ""

        return await _Top(question, alone).show(output)
    async with make_client(argv) as client:
        places = _Places(client, question.service)
        return await _Top(question, places.now).show(output)


def _at(address: str) -> _Place:
    try:
        host, port = split_address(address)
    except ValueError as exc:
        raise InputError(f"--address: {exc}") from None
    host = host or "127.0.0.1"
    return _Place(join_address(host, port), "", host, port)


class _Places:
    """The processes of the services, as the registry knows them now."""

    def __init__(self, client: Client, service: str | None) -> None:
        self._client = client
        self._service = service
        self._last: list[_Place] = []

    async def now(self) -> tuple[list[_Place], str]:
        """The processes to ask, and a remark."""
        client = self._client
        try:
            names = [self._service] if self._service is not None else await client.services()
            sets = await asyncio.gather(*(known_nodes(client, name) for name in names[:MOST_SERVICES]))
        except RegistryError as exc:
            if not self._last:
                raise
            return self._last, f"{exc}; asking again"
        nodes = [(name, node) for name, found in zip(names, sets, strict=False) for node in found]
        self._last = []
        for name, node in nodes[:MOST_NODES]:
            try:
                host = split_address(node.address, default_port=0)[0] if node.kind == "address" else ""
            except ValueError:
                host = ""
            # Of what a record says, only the number: it must not send us to another host.
            port = admin_port(node.metadata) if host else None
            self._last.append(_Place(f"{name} {node.address}", name, host, port))
        if not nodes:
            if self._service is not None:
                return [], await nobody(client, self._service)
            return [], f"no services: {client.registry.describe()} lists none"
        more = len(nodes) - MOST_NODES
        return self._last, f"and {more} more nodes, which are not asked" if more > 0 else ""


class _Top:
    """Asks and shows.

    Args:
        question: What to ask.
        places: Gives the processes to ask, and a remark.
    """

    def __init__(
        self, question: TopQuestion, places: Callable[[], Awaitable[tuple[list[_Place], str]]]
    ) -> None:
        self._question = question
        self._places = places
        self._before: dict[_Place, Reading] = {}

    async def show(self, output: str) -> int:
        """Show until the count is reached, or for ever."""
        question = self._question
        title = question.service or question.address or "all services"
        form: Form[_Row] = Form(title=f"top of {title}", **_FORM)
        loop = asyncio.get_running_loop()
        shown, told = 0, False
        if output == "json":
            while True:
                begun = loop.time()
                look = await self._look()
                if look.remark and not look.places:
                    note(look.remark)
                if look.between or not look.told:
                    shown += look.between
                    say(dump(look.to_json(), pretty=on_terminal()))
                if shown == question.count or not look.told:
                    return 0 if look.told else EXIT_FAILED
                await asyncio.sleep(max(0.0, begun + question.interval - loop.time()))
        with open_view("table", form, whole=True) as view:
            while True:
                begun = loop.time()
                look = await self._look()
                told = told or look.told
                if look.between or not look.told or on_terminal():
                    rows = look.rows(without=question.service if on_terminal() else None)
                    view.show({str(place): row for place, row in enumerate(rows)}, look.remark)
                    shown += look.between or not look.told
                if shown == question.count:
                    return 0 if told else EXIT_FAILED
                await asyncio.sleep(max(0.0, begun + question.interval - loop.time()))

    async def _look(self) -> _Look:
        places, remark = await self._places()
        free = asyncio.Semaphore(AT_ONCE)

        async def ask(place: _Place) -> _Told:
            async with free:
                return await _ask(place, self._question.timeout)

        told = await asyncio.gather(*map(ask, places))
        before, self._before = self._before, {}
        for one in told:
            if one.reading is not None:
                self._before[one.place] = one.reading
        return _Look(told, before, remark)


async def _ask(place: _Place, timeout: float) -> _Told:
    if place.port is None:
        return _Told(place, error="its record names no admin port")
    try:
        stats, nodes = await read_pages(place.host, place.port, ["/stats", "/nodes"], timeout)
        return _Told(place, read_stats(stats), read_nodes(nodes))
    except (AdminError, ValueError) as exc:
        return _Told(place, error=str(exc))


class _Look:
    """What was told in one reading, with the one before.

    Attributes:
        places: What each process told.
        told: Whether any process told anything.
        between: Whether there are two readings of any process, so that there are figures.
        remark: About all of it.
    """

    def __init__(self, places: list[_Told], before: dict[_Place, Reading], remark: str) -> None:
        self.places = places
        self.remark = remark
        self.told = any(told.reading is not None for told in places)
        self.between = False
        self._nodes: list[tuple[_Told, Change | None]] = []
        methods: dict[tuple[str, str], list[Change]] = {}
        calls: dict[tuple[str, str], list[Change]] = {}
        for told in places:
            if told.reading is None:
                self._nodes.append((told, None))
                continue
            earlier = before.get(told.place)
            self.between = self.between or earlier is not None
            served, called = changes(earlier, told.reading)
            # One that serves nothing, a client, has no figures of its own.
            self._nodes.append((told, together(served.values()) if served else None))
            for method, change in served.items():
                methods.setdefault((told.place.service, method), []).append(change)
            for key, change in called.items():
                calls.setdefault(key, []).append(change)
        self._methods = {key: together(parts) for key, parts in sorted(methods.items())}
        self._calls = {key: together(parts) for key, parts in sorted(calls.items())}
        self._seen: dict[tuple[str, str], list[SeenNode]] = {}
        for told in places:
            for node in told.sees:
                self._seen.setdefault((node.service, node.address), []).append(node)

    def rows(self, without: str | None = None) -> list[_Row]:
        """For people.

        Args:
            without: A service whose name the title has, so that no row repeats it.
        """
        return [
            _Row((row.cells[0].removeprefix(f"{without} "), *row.cells[1:]), row.bad, row.title)
            for row in self._rows()
        ]

    def _rows(self) -> list[_Row]:
        rows = [
            _Row(_cells(told.place.name, change, told.error), bad=bool(told.error))
            for told, change in self._nodes
        ]
        rows += _section("METHODS", list(map(_figures, self._methods.items())))
        rows += _section("CALLS MADE", list(map(_figures, self._calls.items())))
        seen = []
        for (service, address), views in sorted(self._seen.items()):
            called = sum(view.called for view in views)
            latencies = [view.latency for view in views if view.latency is not None]
            mean = sum(latencies) / len(latencies) if latencies else None
            cells = (
                f"{service} {address}",
                *(" ", " "),
                _time(mean) if mean is not None else " ",
                " ",
                str(sum(view.in_flight for view in views)),
                _view(called, views),
            )
            seen.append(_Row(cells, bad=not called))
        return rows + _section("NODES SEEN (P50: mean latency)", seen)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "nodes": [
                {
                    "name": told.place.name,
                    "service": told.place.service or None,
                    "error": told.error or None,
                    **(change.to_json() if change is not None else {}),
                }
                for told, change in self._nodes
            ],
            "methods": [
                {"service": service or None, "method": method, **change.to_json()}
                for (service, method), change in self._methods.items()
            ],
            "calls": [
                {"service": service, "method": method, **change.to_json()}
                for (service, method), change in self._calls.items()
            ],
            "seen": [
                {
                    "service": service,
                    "address": address,
                    "clients": len(views),
                    "called_by": sum(view.called for view in views),
                    "in_flight": sum(view.in_flight for view in views),
                    "why_not": sorted({view.why_not for view in views if not view.called}),
                }
                for (service, address), views in sorted(self._seen.items())
            ],
            "remark": self.remark or None,
        }


def _section(title: str, rows: list[_Row]) -> list[_Row]:
    if not rows:
        return []
    if len(rows) > MOST_ROWS:
        left = len(rows) - MOST_ROWS
        rows = [*rows[:MOST_ROWS], _Row((f"… and {left} more", *(" " for _ in _HEADER[1:])))]
    blank = tuple(" " for _ in _HEADER[1:])
    return [_Row((" ", *blank)), _Row((title, *blank), title=True), *rows]


def _figures(item: tuple[tuple[str, str], Change]) -> _Row:
    key, change = item
    return _Row(_cells(" ".join(filter(None, key)), change, ""), bad=change.errors > 0)


def _cells(name: str, change: Change | None, remark: str) -> tuple[str, ...]:
    if change is None:
        return (name, "", "", "", "", "", remark or " ")
    return (
        name,
        f"{change.calls:.1f}",
        f"{change.errors:.1f}",
        _time(change.quantile(0.5)),
        _time(change.quantile(0.99)),
        str(change.in_flight),
        remark or " ",
    )


def _view(called: int, views: list[SeenNode]) -> str:
    """`called by 2 of 3; ejected until a probe in 3s: …`."""
    text = f"called by {called} of {len(views)}"
    why = next((view.why_not or view.state for view in views if not view.called), "")
    return f"{text}; {why}" if why else text


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
