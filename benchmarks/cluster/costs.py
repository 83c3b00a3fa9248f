"""What many clients cost the API server of a large cluster in an hour, from what one client costs it.

Everything grows in proportion, so all of it is multiplication; `hour` measures the factors.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Costs", "table"]

CLIENTS = 1000
PODS_IN_ALL = 50_000
SERVICES_IN_ALL = 1000
PODS_OF_SERVICE = PODS_IN_ALL // SERVICES_IN_ALL
# A pod is replaced once a day. Its API object is written some 8 times from its creation to its end
# (bound, three times by its kubelet until it is ready, marked as deleted, twice until its end,
# removed), and the slice of its Service 4 times (added, ready, terminating, removed).
REPLACED_AN_HOUR = 1 / 24
EVENTS_OF_POD = 8
EVENTS_OF_SLICE = 4


@dataclass(frozen=True, slots=True)
class Costs:
    """What one client was seen to cost.

    Attributes:
        pod: Bytes of a pod in a list.
        event: Bytes of a pod's event.
        open: Bytes of opening a watch from a known version: connection, TLS, request, head of the answer.
        bookmark: Bytes of a bookmark.
        endpoint: Bytes of an endpoint in a slice.
        slice: Bytes of a slice without its endpoints.
        watches: Watches that one reflector opens in an hour.
        lists: Lists among these.
        own: Connections of a client of 30 services in a namespace that has a watch for each.
        shared: The same where they share one.
    """

    pod: float
    event: float
    open: float
    bookmark: float
    endpoint: float
    slice: float
    watches: float
    lists: float
    own: int
    shared: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table.

    Attributes:
        what: What the clients do.
        connections: Of one client.
        listed: Objects in one list of everything it watches, in bytes of `size` each.
        size: Bytes of such an object.
        events: Events of it in an hour.
        event: Bytes of one.
    """

    what: str
    connections: int
    listed: float
    size: float
    events: float
    event: float


def scenarios(costs: Costs) -> list[Scenario]:
    """The lines of the table."""

    def pods(what: str, connections: int, count: int) -> Scenario:
        events = count * REPLACED_AN_HOUR * EVENTS_OF_POD
        return Scenario(what, connections, count, costs.pod, events, costs.event)

    wanted = 30 * PODS_OF_SERVICE
    one_slice = costs.slice + PODS_OF_SERVICE * costs.endpoint
    slices = Scenario(
        "30 services, registry `endpointslice`, one watch of just these",
        costs.shared,
        30,
        one_slice,
        wanted * REPLACED_AN_HOUR * EVENTS_OF_SLICE,
        one_slice,
    )
    return [
        pods("5 services, a watch for each", 5, 5 * PODS_OF_SERVICE),
        pods("30 services, a watch for each", costs.own, wanted),
        pods("30 services, one watch of their namespace of 2,000 pods", costs.shared, 2000),
        pods("30 services, one watch of a namespace of all 50,000 pods", costs.shared, PODS_IN_ALL),
        slices,
    ]


def table(costs: Costs) -> str:
    """The table in Markdown: all clients together, an hour."""
    lines = [
        f"| {CLIENTS:,} clients, {PODS_IN_ALL:,} pods: each client calls | connections | requests an hour "
        "| lists | events | opening, bookmarks | bytes an hour | all start at once |",
        f"|{'---|' * 8}",
    ]
    for one in scenarios(costs):
        requests = one.connections * costs.watches
        lists = costs.lists * one.listed * one.size
        events = one.events * one.event
        rest = requests * costs.open + one.connections * 60 * costs.bookmark
        start = one.listed * one.size + one.connections * costs.open
        amounts = [CLIENTS * amount for amount in (lists, events, rest, lists + events + rest, start)]
        cells = [
            one.what,
            f"{CLIENTS * one.connections:,}",
            f"{CLIENTS * requests:,.0f}",
            *(
                f"{amount / 1e9:,.{2 if amount < 1e9 else 1 if amount < 1e10 else 0}f} GB"
                for amount in amounts
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gigabytes(amount: float) -> str:
    digits = 2 if amount < 1e9 else 1 if amount < 1e10 else 0
    return f"{amount / 1e9:,.{digits}f} GB"
