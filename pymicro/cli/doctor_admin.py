"""What running nodes say of themselves on their admin ports: registration, and the watches of their registry.

A page is what some peer sent: what has another form than ours counts as nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from pymicro.base.findings import Finding
from pymicro.cli.admin_client import AdminError, read_page_and_clock
from pymicro.cli.doctor_nodes import DIALLED, in_order
from pymicro.cli.readings import Inside, SeenSet, SeenWatch, read_inside
from pymicro.nodes.address import split_address
from pymicro.nodes.wellknown import admin_port

if TYPE_CHECKING:
    from pymicro.nodes.node import Node

__all__ = ["check_admin_ports", "clock_findings", "findings"]

# Seconds that a node has for its page.
TIMEOUT = 3.0
# Seconds. Registries confirm a set each minute at least.
OLD = 300.0
# A watch that was cut so often of late, once in so many seconds on the average, is cut by something.
CUTS = 3
OFTEN = 300.0
# So often that clients hardly see a change.
TOO_OFTEN = 5.0
# Seconds that two clocks may differ; NTP keeps them within a tenth of one.
CLOCKS = 5.0
# The most findings of one kind about one node.
MOST = 3

_CUT = (
    "a balancer or proxy between that node and the registry ends connections on which nothing comes for a "
    "while: give it a longer idle timeout (`pymicro doctor --watch 2m`, run there, measures it)"
)
_CLOCKS = (
    "set the clock that is wrong (NTP): where it is behind, a certificate that was just issued is not valid "
    "yet, and where it is ahead, one expires early"
)
_EMPTY = "was service.add(...) forgotten? (a process that only calls needs a Client, and no Service)"
_AWAY = "see whether the registry can be reached from there: run `pymicro doctor` there, with its settings"


async def check_admin_ports(nodes: Sequence[Node]) -> AsyncIterator[Finding]:
    """Look into the first `DIALLED` nodes that have an admin port, all at once."""
    asked = [(node, *place) for node in nodes[:DIALLED] if (place := _place(node))]
    async for found in in_order(_look(node, host, port) for node, host, port in asked):
        for finding in found:
            yield finding


def _place(node: Node) -> tuple[str, int] | None:
    """Host and port to ask. Of what a record says, only the number: it must not send us elsewhere."""
    port = admin_port(node.metadata)
    if port is None or node.kind != "address":
        return None
    try:
        return split_address(node.address, default_port=0)[0], port
    except ValueError:
        return None


async def _look(node: Node, host: str, port: int) -> list[Finding]:
    check = f"inside {node.address}"
    asked = time.time()
    try:
        page, clock = await read_page_and_clock(host, port, "/nodes", TIMEOUT)
        inside = read_inside(page)
    except (AdminError, ValueError) as exc:
        # A NetworkPolicy may let nobody but a scraper in.
        return [Finding(check, "note", f"its admin port {port} tells nothing: {exc}")]
    return findings(check, inside) + clock_findings(check, clock, asked, time.time())


def clock_findings(check: str, clock: float | None, asked: float, answered: float) -> list[Finding]:
    """Whether a node's clock is another one than ours.

    Args:
        check: The node, for people.
        clock: What it said when it answered, in whole seconds; None if it said nothing.
        asked: When it was asked, by the clock here.
        answered: When the answer was there.
    """
    if clock is None:
        return []
    if clock > answered + CLOCKS:
        text = f"its clock is {_long(clock - answered)} ahead of the one here"
    elif clock + 1 < asked - CLOCKS:
        text = f"its clock is {_long(asked - clock)} behind the one here"
    else:
        return []
    return [Finding(check, "note", text, _CLOCKS)]


def findings(check: str, inside: Inside) -> list[Finding]:
    """What is wrong with a node by its own words; one line with what is right if nothing is.

    Args:
        check: The node, for people.
        inside: What it says.
    """
    wrong: list[Finding] = []
    if inside.registration_error:
        text = f"it cannot register itself: {inside.registration_error}"
        wrong.append(Finding(check, "problem", text, _AWAY))
    if inside.serves_nothing:
        wrong.append(Finding(check, "problem", "it serves no method: nothing was added to it", _EMPTY))
    failing = [one for one in inside.sets if one.error]
    wrong += [_failing(check, one) for one in failing[:MOST]]
    if inside.watches:  # other registries have nothing to confirm
        old = [one for one in inside.sets if not one.error and one.age is not None and one.age > OLD]
        wrong += [_old(check, one) for one in old[:MOST]]
    cut = [(one, pace) for one in inside.watches if (pace := _pace(one)) is not None]
    wrong += [_cut(check, one, pace) for one, pace in cut[:MOST]]
    return wrong or [Finding(check, "ok", _well(inside))]


def _failing(check: str, one: SeenSet) -> Finding:
    since = f" for {_long(one.failing)}" if one.failing is not None else ""
    kept = f"it calls the nodes of {_long(one.age)} ago" if one.age is not None else "it knows no nodes"
    text = f"its registry has failed{since}, and for {one.service} {kept}: {one.error}"
    return Finding(check, "problem", text, _AWAY)


def _old(check: str, one: SeenSet) -> Finding:
    text = f"its registry has not confirmed the nodes of {one.service} for {_long(one.age or 0.0)}"
    return Finding(check, "problem", text, _AWAY)


def _pace(watch: SeenWatch) -> float | None:
    """Seconds between two cuts of late, if something cuts it; None if nothing does.

    Silence counts for nothing: a watch of what does not change may have nothing to say.
    """
    cuts = [seconds for seconds, why in watch.recent if why != "idle"]
    if len(cuts) < CUTS:
        return None
    between = (max(cuts) - min(cuts)) / (len(cuts) - 1)
    # The last one may be long ago.
    return between if max(between, min(cuts) / 2) <= OFTEN else None


def _cut(check: str, watch: SeenWatch, pace: float) -> Finding:
    why = ", ".join(sorted({why for _, why in watch.recent if why != "idle"}))
    text = f"its watch of {watch.what} is cut every {_long(pace)} ({why}; {watch.cuts} times so far)"
    if pace <= TOO_OFTEN:
        return Finding(check, "problem", f"{text}: it hardly sees a change", _CUT)
    more = "watches on at once" if watch.resumes else "reads all of it again each time"
    return Finding(check, "note", f"{text}; it {more}", _CUT)


def _well(inside: Inside) -> str:
    parts = ["registered" if inside.registered else "not registered, as it wants"]
    if inside.sets:
        ages = [one.age for one in inside.sets if one.age is not None]
        oldest = f", confirmed {_long(max(ages))} ago" if ages else ""
        count = len(inside.sets)
        parts.append(f"it watches {count} service{'s' * (count != 1)}{oldest}")
    connected = sum(one.connected for one in inside.watches)
    if inside.watches:
        parts.append(f"{connected} of {len(inside.watches)} watches connected")
    return "; ".join(parts)


def _long(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min`, `5 h`."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
