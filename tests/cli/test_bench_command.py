from __future__ import annotations

import asyncio
import errno
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from pymicro import InvalidArgument, NotFound, Service, handler
from tests.cli_support import PATIENCE, Commands, unhurried
from tests.serving.serving import eventually

ADA = '{"name": "Ada"}'


class Greeter:
    """Knows its callers' metadata; some names are answered in a way of their own."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        self.names.append(request.name)
        if request.name == "nobody":
            raise NotFound("nobody is here") if len(self.names) % 2 else InvalidArgument("no name")
        if request.name == "wait":
            await asyncio.Event().wait()
        return pb.HelloReply(message="Hello")

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
        for number in range(3):
            yield pb.CountDownReply(number=number)

    @handler
    async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
        self.names.append(" ".join([request.name async for request in requests]))
        return pb.HelloReply()

    @handler
    async def chat(self, lines: AsyncIterator[pb.ChatMessage]) -> AsyncIterator[pb.ChatMessage]:
        async for line in lines:
            yield line


def serving(registry_folder: str, greeter: Greeter | None = None) -> Service:
    service = Service("greeter", version="7", registry_address=registry_folder, stop_grace=0.1)
    service.add(greeter or Greeter(), pb)
    return service


async def measured(pymicro: Commands, *argv: str, code: int = 0) -> dict[str, Any]:
    result = await pymicro("bench", "greeter", *argv, "-o", "json")
    assert result.code == code, result.err
    assert result.err == ""
    found = json.loads(result.out)
    assert isinstance(found, dict)
    return found


async def test_the_json_has_all_figures(pymicro: Commands, registry_folder: str) -> None:
    async with serving(registry_folder) as service:
        found = await measured(pymicro, "SayHello", ADA, "-n", "200", "-c", "4")
        node = service.node
    assert found["seconds"] > 0
    assert found["calls_per_second"] == pytest.approx(200 / found["seconds"], rel=0.01)
    latency = found["latency_ms"]
    assert list(latency) == ["min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"]
    ordered = [value for name, value in latency.items() if name != "mean"]
    assert ordered == sorted(ordered)
    assert 0 < latency["min"] < latency["mean"] < latency["max"]
    del found["seconds"], found["calls_per_second"], found["latency_ms"]
    assert found == {
        "service": "greeter",
        "method": "greeter.v1.Greeter/SayHello",
        "concurrency": 4,
        "rate": None,
        "interrupted": False,
        "calls": 200,
        "ok": 200,
        "retries": 0,
        "replies": 200,
        "unfinished": 0,
        "not_begun": 0,
        "errors": [],
        "nodes": [{"id": node.id, "address": node.address, "version": "7", "calls": 200, "share": 1.0}],
        "most_by_mean": 1.0,
    }


async def test_a_rate_is_kept_for_the_duration_after_the_warmup(
    pymicro: Commands, registry_folder: str
) -> None:
    greeter = Greeter()
    async with serving(registry_folder, greeter):
        found = await measured(pymicro, "SayHello", ADA, "--rate", "100", "-d", "0.6", "--warmup", "300ms")
    assert found["rate"] == 100
    assert 58 <= found["calls"] + found["not_begun"] <= found["seconds"] * 100 + 1
    # Those of the warm-up came besides.
    assert len(greeter.names) - found["calls"] > 10


async def test_errors_are_counted_by_status_with_the_first_message(
    pymicro: Commands, registry_folder: str
) -> None:
    async with serving(registry_folder):
        found = await measured(pymicro, "SayHello", '{"name": "nobody"}', "-n", "31", code=1)
    assert found["errors"] == [
        {"status": "NOT_FOUND", "calls": 16, "message": "nobody is here"},
        {"status": "INVALID_ARGUMENT", "calls": 15, "message": "no name"},
    ]
    assert (found["calls"], found["ok"], found["latency_ms"]) == (31, 0, None)


async def test_calls_are_counted_by_node_and_a_node_without_calls_is_seen(
    pymicro: Commands, registry_folder: str
) -> None:
    async with serving(registry_folder) as one, serving(registry_folder) as two:
        both = {one.address, two.address}
        found = await measured(pymicro, "SayHello", ADA, "-n", "200", "--balancer", "round_robin")
        assert {node["address"] for node in found["nodes"]} == both
        assert sum(node["calls"] for node in found["nodes"]) == 200
        most = max(node["calls"] for node in found["nodes"])
        assert found["most_by_mean"] == pytest.approx(most / 100)
        found = await measured(pymicro, "SayHello", ADA, "-n", "10", "--subset-size", "1")
        assert sorted(node["calls"] for node in found["nodes"]) == [0, 10]
        assert found["most_by_mean"] == 2.0
        found = await measured(pymicro, "SayHello", ADA, "-n", "10", "--address", one.address)
        assert [node["address"] for node in found["nodes"]] == [one.address]


@pytest.mark.parametrize(
    ("method", "request_json", "replies"),
    [
        ("CountDown", "{}", 30),
        ("GreetAll", '{"name": "a"} {"name": "b"}', 10),
        ("Chat", '{"text": "a"} {"text": "b"}', 20),
    ],
)
async def test_streams_are_sent_and_read_to_their_end(
    pymicro: Commands, registry_folder: str, method: str, request_json: str, replies: int
) -> None:
    greeter = Greeter()
    async with serving(registry_folder, greeter):
        found = await measured(pymicro, method, request_json, "-n", "10", "-c", "2")
    assert (found["ok"], found["replies"]) == (10, replies)
    if method == "GreetAll":
        assert greeter.names == ["a b"] * 10


async def test_a_person_reads_it_in_80_columns_and_a_pipe_has_no_bar(
    pymicro: Commands, registry_folder: str
) -> None:
    async with serving(registry_folder), serving(registry_folder):
        result = await pymicro("bench", "greeter", "SayHello", ADA, "-n", "100")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "greeter.v1.Greeter/SayHello of greeter: 100 calls, 10 at a time"
    assert re.fullmatch(r"calls      100 in [\d.]+s, [\d.]+/s", lines[2])
    assert "OK         100 (100.0%)" in lines
    assert lines[lines.index("latency in ms") + 1].split() == [
        "min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "max",
    ]  # fmt: skip
    assert any(line.split() == ["NODE", "VERSION", "CALLS", "SHARE"] for line in lines)
    # 2 where the second node was not connected before the last call.
    assert re.fullmatch(r"most / mean: (1\.\d{3}|2\.000) \(1 is even\)", lines[-1])


def all_of(terminal: int) -> str:
    """What is written to a terminal until the last who has it open has ended."""
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError as exc:  # which is how Linux says that it is over
        if exc.errno != errno.EIO:
            raise
    return b"".join(parts).decode()


async def test_a_terminal_has_a_bar_that_is_gone_in_the_end(pymicro: Commands, registry_folder: str) -> None:
    ours, theirs = pty.openpty()
    argv = (*["-m", "pymicro", "bench", "greeter", "SayHello"], ADA, "-d", "0.5")
    env = {**pymicro.env, "TERM": "xterm"}
    try:
        async with serving(registry_folder):
            process = await asyncio.create_subprocess_exec(
                sys.executable, *argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env
            )
            os.close(theirs)
            # To its end: the kernel hands on later what is written to a terminal.
            text, _ = await asyncio.gather(asyncio.to_thread(all_of, ours), process.wait())
            assert process.returncode == 0
    finally:
        os.close(ours)
    bar, _, report = text.rpartition("\x1b[2K")
    assert " 0s of 500ms  0 calls  0/s  0 errors" in bar
    assert re.search(r"━+.*[1-9]\d* calls", bar)
    assert report.lstrip("\r").startswith("greeter.v1.Greeter/SayHello of greeter: ")


async def test_an_interrupt_prints_what_was_measured(pymicro: Commands, registry_folder: str) -> None:
    greeter = Greeter()
    async with serving(registry_folder, greeter):
        argv = ("bench", "greeter", "SayHello", '{"name": "wait"}', "-c", "3", "-o", "json")
        async with pymicro.started(*argv) as process:
            await eventually(lambda: len(greeter.names) == 3, "all three calls run", PATIENCE)
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, unhurried(err.decode())) == (130, "")
    found = json.loads(out)
    assert (found["interrupted"], found["calls"], found["unfinished"]) == (True, 0, 3)


async def test_a_timeout_is_an_error_of_its_status(pymicro: Commands, registry_folder: str) -> None:
    async with serving(registry_folder):
        argv = ("SayHello", '{"name": "wait"}', "-n", "3", "--timeout", "300ms")
        found = await measured(pymicro, *argv, code=1)
    assert [(error["status"], error["calls"]) for error in found["errors"]] == [("DEADLINE_EXCEEDED", 3)]


async def test_bad_input_exits_2_and_nothing_is_called(pymicro: Commands, registry_folder: str) -> None:
    greeter = Greeter()
    async with serving(registry_folder, greeter):
        for argv, words in (
            (("SayHello", ADA, "-c", "0"), "--concurrency: 0 is not 1 to 10000"),
            (("SayHello", ADA, "-d", "2h"), "--duration: 2h is more than 1h"),
            (("SayHello", '{"nam": "x"}'), "has no field 'nam'"),
            (("SayHelo", ADA), "did you mean greeter.v1.Greeter/SayHello?"),
        ):
            # The service is asked what it has; a busy machine may not answer in the default 5 s.
            result = await pymicro("bench", "greeter", *argv, MICRO_CLIENT_REQUEST_TIMEOUT="60s")
            assert (result.code, result.out) == (2, ""), result.err
            assert words in result.err
    assert greeter.names == []


async def test_without_a_node_it_says_why_and_exits_1(pymicro: Commands) -> None:
    result = await pymicro("bench", "greeter", "SayHello", ADA)
    assert (result.code, result.out) == (1, "")
    waited, error = result.err.splitlines()
    assert re.match(r"waiting up to 1\.\ds for a node of greeter: registry local \(", waited)
    assert error.startswith("UNAVAILABLE: no node for greeter: ")
