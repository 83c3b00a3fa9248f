"""`pymicro doctor` looks into running nodes: what they say of themselves on their admin ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pymicro import Client, MemoryRegistry, RegistryError, Service
from pymicro.base.findings import Finding
from pymicro.cli import doctor_admin
from pymicro.cli.doctor_admin import check_admin_ports, clock_findings, findings
from pymicro.cli.doctor_checks import check
from pymicro.cli.readings import read_inside
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ADMIN_PORT
from pymicro.settings.config import load
from tests.cli.test_doctor_command import greeter
from tests.cli_support import Commands

SERVICE = {"name": "orders", "registered": True, "registration_error": None}


def page(
    watched: list[dict[str, Any]] | None = None, watches: list[dict[str, Any]] | None = None, **service: Any
) -> dict[str, Any]:
    return {
        "service": {**SERVICE, **service},
        "registry": {"watched": watched or [], "watches": watches or []},
    }


def watched(**given: Any) -> dict[str, Any]:
    return {"service": "users", "age_seconds": 0.4, "error": None, "failing_seconds": None, **given}


def watch(*ago: float, why: str = "cut", **given: Any) -> dict[str, Any]:
    """A watch that was cut so many seconds ago."""
    return {
        "what": "pods in namespace shop",
        "connected_seconds": 3.0,
        "cuts": {why: 40},
        "recent_cuts": [{"seconds": seconds, "why": why} for seconds in ago],
        "resumes": True,
        **given,
    }


def found(document: Any) -> list[Finding]:
    return findings("inside x", read_inside(document))


def the_only(document: Any) -> Finding:
    (one,) = found(document)
    assert one.check == "inside x"
    return one


def test_all_is_well_with_a_node_that_is_registered_and_whose_watches_stand() -> None:
    one = the_only(page([watched(), watched(age_seconds=12.3)], [watch(), watch()]))
    assert one.level == "ok"
    assert one.text == "registered; it watches 2 services, confirmed 12 s ago; 2 of 2 watches connected"
    assert the_only(page(registered=False)).text == "not registered, as it wants"


def test_a_service_to_which_nothing_was_added_is_a_problem() -> None:
    one = the_only(page(methods=0))
    assert (one.level, one.text) == ("problem", "it serves no method: nothing was added to it")
    assert "service.add" in one.fix
    assert the_only(page(methods=3)).level == the_only(page(methods=None)).level == "ok"


def test_a_registration_that_fails_is_a_problem() -> None:
    one = the_only(page(registered=False, registration_error="not today"))
    assert (one.level, one.text) == ("problem", "it cannot register itself: not today")
    assert one.fix


def test_a_registry_that_fails_there_is_a_problem_with_what_the_node_goes_on_with() -> None:
    one = the_only(page([watched(), watched(error="it is away", failing_seconds=130.2, age_seconds=7300.0)]))
    assert one.level == "problem"
    assert one.text == (
        "its registry has failed for 2 min, and for users it calls the nodes of 2 h ago: it is away"
    )
    one = the_only(page([watched(error="it is away", failing_seconds=3.0, age_seconds=None)]))
    assert one.text == "its registry has failed for 3.0 s, and for users it knows no nodes: it is away"


def test_an_old_set_is_a_problem_where_a_watch_confirms_it() -> None:
    old = [watched(age_seconds=900.0)]
    one = the_only(page(old, [watch()]))
    assert one.level == "problem"
    assert one.text == "its registry has not confirmed the nodes of users for 15 min"
    # The registries `memory` and `static` confirm nothing.
    assert the_only(page(old)).level == "ok"


@pytest.mark.parametrize(
    ("ago", "why", "level", "says"),
    [
        (
            (5, 65, 125, 185, 245),
            "cut",
            "note",
            "is cut every 60 s (cut; 40 times so far); it watches on at once",
        ),
        ((5, 40, 75), "early", "note", "is cut every 35 s (early; 40 times so far); it watches on at once"),
        (
            (1, 2, 3, 4, 5),
            "cut",
            "problem",
            "is cut every 1.0 s (cut; 40 times so far): it hardly sees a change",
        ),
        ((5, 65, 125, 185, 245), "idle", "ok", ""),
        ((5, 65), "cut", "ok", ""),
        ((5, 1805, 3605), "cut", "ok", ""),
        # It was cut often, long ago.
        ((4000, 4060, 4120), "cut", "ok", ""),
    ],
)
def test_a_watch_that_is_cut_again_and_again_is_told(
    ago: tuple[float, ...], why: str, level: str, says: str
) -> None:
    one = the_only(page(watches=[watch(*ago, why=why)]))
    assert one.level == level
    if says:
        assert one.text.endswith(f"its watch of pods in namespace shop {says}")
        assert "idle timeout" in one.fix


def test_a_watch_that_cannot_go_on_says_that_all_is_read_again() -> None:
    one = the_only(page(watches=[watch(5, 65, 125, resumes=None)]))
    assert one.text.endswith("it reads all of it again each time")


def test_of_one_node_a_few_findings_of_a_kind_are_enough() -> None:
    sets = [watched(service=f"s{number}", error="away") for number in range(500)]
    assert len(found(page(sets, [watch(5, 65, 125)] * 500))) == 2 * doctor_admin.MOST


@pytest.mark.parametrize(
    "document",
    [
        page([{"service": 1, "age_seconds": "old", "error": 7, "failing_seconds": []}]),
        page(watches=[watch(-1e300, 1e300, float("inf"))]),
        {"service": {"registered": "yes"}, "registry": {"watched": {"a": 1}, "watches": 3}},
        {"service": {"a": 1}, "registry": {"watches": [{"recent_cuts": [1, None], "cuts": [1]}]}},
        page([None, 1, []], [None, "x"]),  # type: ignore[list-item]
    ],
)
def test_what_has_another_form_than_ours_counts_as_nothing(document: Any) -> None:
    assert all(one.level in ("ok", "note") for one in found(document))


@pytest.mark.parametrize("document", [None, [], {}, {"service": None}, {"registry": {}}])
def test_a_page_of_no_service_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="no service's"):
        read_inside(document)


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        # Whole seconds, and an answer that took one: nothing is known of the rest.
        (None, ""),
        (994.0, ""),
        (1006.0, ""),
        (900.0, "its clock is 100 s behind the one here"),
        (1091.0, "its clock is 90 s ahead of the one here"),
        (8201.0, "its clock is 2 h ahead of the one here"),
    ],
)
def test_a_clock_that_is_another_than_the_one_here_is_told(clock: float | None, said: str) -> None:
    told = clock_findings("inside n", clock, asked=1000.0, answered=1001.0)
    assert [one.text for one in told] == ([said] if said else [])
    assert all(one.level == "note" and "NTP" in one.fix for one in told)


async def test_a_node_on_a_machine_with_a_wrong_clock_is_found_by_the_date_of_its_answer(
    registry_folder: str,
) -> None:
    body = json.dumps(page()).encode()
    for date, count in (("Tue, 01 Jan 2019 00:00:00 GMT", 2), ("soon", 1), ("1" * 9000, 1)):
        head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
        async with odd(head.encode() + body, registry_folder, "127.0.0.1:9") as port:
            node = Node("greeter-1", "127.0.0.1:9", "greeter", "1", {ADMIN_PORT: str(port)})
            told = [one async for one in check_admin_ports([node])]
        assert len(told) == count
        if count == 2:
            assert re.fullmatch(r"its clock is \d+ h behind the one here", told[1].text), told[1].text


# Running nodes


async def test_a_node_whose_registration_fails_is_found_and_the_doctor_exits_1() -> None:
    class Once(MemoryRegistry):
        registered = False

        async def register(self, node: Node) -> None:
            if self.registered:
                raise RegistryError("the quota of \x1b[31mkeys is used up")
            self.registered = True
            await super().register(node)

    registry = Once()
    async with Service("greeter", registry=registry, register_interval=1) as service:
        async with asyncio.timeout(20):
            while True:
                told = [one async for one in check(Client(registry=registry, environ={}), "greeter")]
                inside = [one for one in told if one.check == f"inside {service.node.address}"]
                if len(inside) == 2:
                    break
                # Nothing was added to it either.
                assert [one.text for one in inside] == ["it serves no method: nothing was added to it"]
                await asyncio.sleep(0.05)
        assert inside[0].text == "it cannot register itself: the quota of \x1b[31mkeys is used up"


@asynccontextmanager
async def odd(answer: bytes, folder: str, address: str) -> AsyncIterator[int]:
    """A node at `address` whose admin port answers every request with this; the port."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
            await registry.register(Node("greeter-1", address, "greeter", "1", {ADMIN_PORT: str(port)}))
            yield port
    finally:
        server.close()
        await asyncio.gather(*tasks)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("document", "code"), [(page(), 0), (page(registered=False, registration_error="\x1b[2J no"), 1)]
)
async def test_a_problem_inside_a_node_that_answers_calls_is_exit_code_1(
    pymicro: Commands, registry_folder: str, document: dict[str, Any], code: int
) -> None:
    async with greeter() as port:
        address = f"127.0.0.1:{port}"
        async with odd(http(json.dumps(document).encode()), registry_folder, address):
            result = await pymicro("doctor", "greeter")
    assert (result.code, result.err) == (code, "")
    assert result.out.replace("\n", "").isprintable()
    assert f"inside {address}" in result.out


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "what answers there is no admin port"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "is too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "no answer in 3s"),
        (http(b"no", "404 Not Found"), "/nodes: 404 no"),
        (http(b"{}"), "it is no service's"),
        (http(b"[" * 100_000), "is no JSON"),
    ],
)
async def test_an_admin_port_that_tells_nothing_is_a_note(
    registry_folder: str, answer: bytes, says: str
) -> None:
    async with odd(answer, registry_folder, "127.0.0.1:9") as port:
        node = Node("greeter-1", "127.0.0.1:9", "greeter", "1", {ADMIN_PORT: str(port)})
        (one,) = [one async for one in check_admin_ports([node])]
    assert (one.check, one.level) == ("inside 127.0.0.1:9", "note")
    assert one.text.startswith(f"its admin port {port} tells nothing: ")
    assert says in one.text


async def test_only_the_number_of_a_records_admin_port_is_believed() -> None:
    records = ({}, {ADMIN_PORT: "192.0.2.1:9464"}, {ADMIN_PORT: "http://192.0.2.1"}, {ADMIN_PORT: "0"})
    nodes = [Node("n", "127.0.0.1:9", "greeter", metadata=one) for one in records]
    nodes.append(Node("n", "greeter:9", "greeter", metadata={ADMIN_PORT: "9464"}, kind="name"))
    assert [one async for one in check_admin_ports(nodes)] == []
