"""`pymicro top`: figures of real services, and peers that answer anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import InvalidArgument, Service, handler
from pymicro.cli.readings import Change, changes, read_nodes, read_stats, together
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ADMIN_PORT
from pymicro.settings.config import load
from tests.cli.test_views import Terminal
from tests.cli_support import Commands, Result

METHOD = "/greeter.v1.Greeter/SayHello"


class Back:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        if request.name == "bad":
            raise InvalidArgument("on purpose")
        return pb.HelloReply(message=request.name)


class Front:
    def __init__(self, channel: Any) -> None:
        self.back = rpc.GreeterStub(channel)

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        try:
            return await self.back.SayHello(request)
        except InvalidArgument:
            raise InvalidArgument("passed on") from None


@asynccontextmanager
async def shop(folder: str) -> AsyncIterator[tuple[Service, Service]]:
    """`front` calls `back` all the time, with an error in each third call."""

    def named(name: str) -> Service:
        return Service(name, registry_address=folder)

    back, front = named("back"), named("front")
    back.add(Back(), pb, partial=True)
    front.add(Front(front.channel("back")), pb, partial=True)

    async def load_it() -> None:
        stub = rpc.GreeterStub(front.channel("front"))
        for number in range(1_000_000):
            with contextlib.suppress(Exception):
                await stub.SayHello(pb.HelloRequest(name="bad" if number % 3 == 0 else "good"))
            await asyncio.sleep(0.001)

    async with back, front:
        calling = asyncio.create_task(load_it())
        try:
            yield front, back
        finally:
            calling.cancel()
            await asyncio.wait([calling])


async def test_json_has_the_figures_of_nodes_methods_calls_and_the_nodes_seen(
    pymicro: Commands, registry_folder: str
) -> None:
    async with shop(registry_folder) as (front, _):
        address = front.node.address
        result = await pymicro("top", "front", "-o", "json", "--interval", "500ms")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    (node,) = found["nodes"]
    assert (node["name"], node["service"], node["error"]) == (f"front {address}", "front", None)
    assert node["calls_per_second"] > 1
    assert 0 < node["errors_per_second"] < node["calls_per_second"]
    assert 0 < node["p50_seconds"] <= node["p99_seconds"]
    assert found["methods"][0]["method"] == METHOD
    (call,) = (call for call in found["calls"] if call["service"] == "back")
    assert call["method"] == METHOD
    assert call["calls_per_second"] > 1
    (seen,) = (seen for seen in found["seen"] if seen["service"] == "back")
    assert (seen["clients"], seen["called_by"], seen["why_not"]) == (1, 1, [])


async def test_a_pipe_gets_tables_and_all_services_without_a_name(
    pymicro: Commands, registry_folder: str
) -> None:
    async with shop(registry_folder) as (front, back):
        addresses = front.node.address, back.node.address
        result = await pymicro("top", "--count", "1", "--interval", "300ms")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["NODES", "CALLS/S", "ERRORS/S", "P50", "P99", "IN", "FLIGHT", "NOTE"]
    assert re.match(rf"back {re.escape(addresses[1])} +\d+\.\d +\d+\.\d +\S+ ms", lines[1])
    assert re.match(rf"front {re.escape(addresses[0])} +\d+\.\d +\d+\.\d +\S+ ms", lines[2])
    assert lines[3:5] == ["", "METHODS"]
    assert any(line.startswith(f"front {METHOD} ") for line in lines)
    below = lines[lines.index("CALLS MADE") :]
    assert any(line.startswith(f"back {METHOD} ") for line in below)
    assert any(re.match(rf"back {re.escape(addresses[1])} .* called by 1 of 1$", line) for line in below)


async def test_on_a_terminal_the_table_is_redrawn_until_the_user_ends_it(
    pymicro: Commands, registry_folder: str
) -> None:
    terminal = Terminal()
    try:
        async with (
            shop(registry_folder),
            pymicro.started(
                "top", "back", "--interval", "200ms", stdout=terminal.theirs, TERM="xterm"
            ) as process,
        ):
            await terminal.until("METHODS")
            assert re.fullmatch(r"top of back  \d\d:\d\d:\d\d  \(Ctrl-C ends\)", terminal.screen[0])
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        terminal.close()


async def test_one_process_is_asked_by_its_address(pymicro: Commands, registry_folder: str) -> None:
    async with shop(registry_folder) as (front, _):
        address = front.admin_address
        assert address is not None
        result = await pymicro(
            *("top", "--address", address, "-o", "json", "--interval", "200ms"),
            MICRO_REGISTRY_ADDRESS="/proc/nobody/here",
        )
    assert result.code == 0
    (node,) = json.loads(result.out)["nodes"]
    assert node["name"] == address
    result = await pymicro("top", "--address", address, "--count", "1")
    assert result.code == 1
    assert "unreachable: Connection refused" in result.out


async def test_services_without_figures_and_unknown_ones_are_said_to_be_so(
    pymicro: Commands, registry_folder: str
) -> None:
    async with Service("back", registry_address=registry_folder, metrics="off"):
        result = await pymicro("top", "back", "--count", "1")
        assert result.code == 1
        assert "/stats: 404 nothing is counted here: the setting `metrics` is off" in result.out
        result = await pymicro("top", "bakc", "--count", "1")
        assert (result.code, result.out) == (1, "")
        assert "no node of bakc" in result.err
        assert "did you mean 'back'?" in result.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("greeter", "--address", "127.0.0.1:1"), "either SERVICE or --address"),
        (("--address", "nowhere"), "--address: 'nowhere' has no port"),
        (("greeter", "--interval", "often"), "--interval:"),
        (("greeter", "--timeout", "-1s"), "--timeout:"),
        (("greeter", "--count", "0"), "--count"),
    ],
)
async def test_bad_input_is_one_clear_message(pymicro: Commands, argv: tuple[str, ...], says: str) -> None:
    result = await pymicro("top", *argv)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert "Traceback" not in result.err


# Peers that are not ours


@dataclass
class Peer:
    """Attributes:
    asked: The requests that it got.
    """

    port: int
    asked: list[bytes]


def page(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def peer(answer: bytes, folder: str) -> AsyncIterator[Peer]:
    """A node of `odd` whose admin port answers every request with this."""
    asked: list[bytes] = []
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    asked.append(await reader.readuntil(b"\r\n\r\n"))
                    writer.write(answer)
                    await writer.drain()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
            await registry.register(Node("odd-1", "127.0.0.1:9", "odd", "1", {ADMIN_PORT: str(port)}))
            yield Peer(port, asked)
    finally:
        server.close()
        await asyncio.gather(*tasks)


EVIL = b'"\\u001b[31m\\u202e\\n"'


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "what answers there is no admin port"),
        (b"\x00" * 40_000, "what answers there is no admin port"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "what answers there is no admin port"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n", "is too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "no answer in 1s"),
        (b"HTTP/1.1 200 OK", "no answer in 1s"),
        (page(b"\x1b[2Jno", "404 Not Found"), r"/stats: 404 \x1b[2Jno"),
        (page(b"{"), "its page /stats is no JSON"),
        (page(b"[" * 100_000), "its page /stats is no JSON"),
        (page(b"1" * 10_000), "its page /stats is no JSON"),
        (page(b"[1]"), "a form that this version of pymicro does not know"),
        (page(b'{"format": 2}'), "a form that this version of pymicro does not know"),
    ],
)
async def test_what_is_no_admin_port_is_said_to_be_none(
    pymicro: Commands, registry_folder: str, answer: bytes, note: str
) -> None:
    async with peer(answer, registry_folder):
        result = await pymicro("top", "odd", "--count", "1", "--timeout", "1s")
    assert result.code == 1
    assert note in result.out
    assert result.out.replace("\n", "").isprintable()


async def test_odd_figures_count_as_nothing_and_no_text_steers_the_terminal(
    pymicro: Commands, registry_folder: str
) -> None:
    document = b"""{"format": 1, "pid": -1, "seconds": 1e999, "server": {"methods": {%s: {
        "in_flight": %s, "statuses": {"0": 1e400, %s: true},
        "seconds": {"bounds": [3, 2, "a"], "counts": 7}}}},
        "client": [], "targets": [{"service": %s, "nodes": [{"address": %s, "why_not": %s}, 7, null]}, []]}"""
    async with peer(page(document % (EVIL, b"9" * 3000, *[EVIL] * 4)), registry_folder):
        result: Result = await pymicro(
            "top", "odd", "--count", "1", "--interval", "100ms", MICRO_LOG_LEVEL="error"
        )
    # Its clock stands still, so there are never two readings to compare.
    assert result.code == 0
    assert result.out.replace("\n", "").isprintable()
    assert r"\x1b[31m\u202e" in result.out


async def test_a_record_cannot_send_anybody_to_another_host(pymicro: Commands, registry_folder: str) -> None:
    async with (
        peer(page(b"{}"), registry_folder) as other,
        LocalRegistry(load({"registry_address": registry_folder}, environ={})) as registry,
    ):
        for number, lure in enumerate(
            (f"127.0.0.1:{other.port}", f"@127.0.0.1:{other.port}", str(other.port))
        ):
            await registry.register(Node(f"b{number}", "127.0.0.2:9", "lured", "1", {ADMIN_PORT: lure}))
        result = await pymicro("top", "lured", "--count", "1")
        assert result.out.count("its record names no admin port") == 2
        assert result.out.count("unreachable: Connection refused") == 1
        assert other.asked == []


async def test_of_a_large_service_a_hundred_nodes_are_asked(pymicro: Commands, registry_folder: str) -> None:
    async with LocalRegistry(load({"registry_address": registry_folder}, environ={})) as registry:
        for number in range(105):
            await registry.register(Node(f"n{number:03}", f"127.0.0.1:{number + 1}", "large", "1"))
        result = await pymicro("top", "large", "--count", "1")
    assert result.out.count("its record names no admin port") == 100
    assert "and 5 more nodes, which are not asked" in result.err


# Figures


def stats(calls: int, *, pid: int = 1, seconds: float = 1.0, failed: int = 0) -> dict[str, Any]:
    counts = [0, calls + failed, 0]
    method = {
        "in_flight": 2,
        "statuses": {"0": calls, "14": failed},
        "seconds": {"bounds": [0.001, 0.01], "counts": counts, "total": 1.0},
    }
    return {"format": 1, "pid": pid, "seconds": seconds, "server": {"methods": {METHOD: method}}}


def test_figures_are_those_between_two_readings() -> None:
    before, after = read_stats(stats(10)), read_stats(stats(30, seconds=3.0, failed=4))
    served, called = changes(before, after)
    change = served[METHOD]
    assert (change.calls, change.errors, change.in_flight, called) == (12.0, 2.0, 2, {})
    assert change.counts == (0, 24, 0)
    assert change.quantile(0.5) == pytest.approx(0.0055)
    both = together([change, change])
    assert (both.calls, both.counts) == (24.0, (0, 48, 0))
    assert Change(0, 0, 0).quantile(0.5) is None
    assert Change(1, 0, 0, (0.1,), (0, 5)).quantile(0.99) == 0.1


@pytest.mark.parametrize(
    "after", [stats(3, pid=2, seconds=2.0), stats(30, seconds=1.0), stats(30, seconds=0.5)]
)
def test_another_process_or_a_clock_that_stands_has_no_figures(after: dict[str, Any]) -> None:
    assert changes(read_stats(stats(10)), read_stats(after)) == ({}, {})


def test_counters_that_go_back_are_nothing_and_never_less() -> None:
    served, _ = changes(read_stats(stats(10)), read_stats(stats(4, seconds=2.0)))
    assert served[METHOD].calls == 0
    assert min(served[METHOD].counts) == 0


def test_of_a_peer_that_lists_a_million_nodes_the_first_are_taken() -> None:
    node = {"address": "a:1"}
    assert len(read_nodes({"targets": [{"service": "x", "nodes": [node] * 100_000}]})) == 2000
