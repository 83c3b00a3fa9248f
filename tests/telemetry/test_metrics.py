"""What a scraper reads: names, labels, values, and how little the event loop notices."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro.base.recorder import BOUNDS, Recorder
from pymicro.telemetry.collector import Collector
from pymicro.telemetry.exposition import Exposition
from pymicro.telemetry.statuses import STATUSES
from pymicro.testing import running

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def collector(recorder: Recorder, **given: Any) -> Collector:
    return Collector(recorder, **{"info": {"version": "1"}, "ages": lambda: {"users": 0.5}, **given})


async def scraped(collector: Collector, accept: str = "") -> str:
    content_type, pieces = Exposition(collector.collect).write(accept)
    assert ("openmetrics" in content_type) is ("openmetrics" in accept)
    return b"".join([piece async for piece in pieces]).decode()


def values(
    text: str, parse: Callable[[str], Any] = plain
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def busy(methods: int, statuses: int = 1) -> Recorder:
    """A recorder of so many methods, each of them served and called."""
    recorder = Recorder()
    for number in range(methods):
        path = f"/shop.v1.Shop/Method{number}"
        recorder.server.know(path)
        for code in range(statuses):
            recorder.server.method(path).ended[code].add(0.004)
            recorder.target("shop").method(path).once[code].add(0.004)
    return recorder


class Greeter(rpc.GreeterServicer):
    async def SayHello(self, request: Any, context: Any) -> Any:
        if request.name == "fail":
            raise pymicro.NotFound("nobody")
        return pb.HelloReply(message="Hello")


async def test_calls_of_a_real_service_are_in_the_metrics_of_both_ends() -> None:
    service = pymicro.Service("greeter")
    rpc.add_GreeterServicer_to_server(Greeter(), service)
    async with running(service) as ran:
        greet = rpc.GreeterStub(ran.channel("greeter"))
        for _ in range(5):
            await greet.SayHello(pb.HelloRequest(name="Ada"))
        with pytest.raises(pymicro.NotFound):
            await greet.SayHello(pb.HelloRequest(name="fail"))
        assert ran.client.recorder is not None
        called = values(await scraped(collector(ran.client.recorder)))
        served = values(await scraped(collector(ran.node._life._client.recorder)))
    method, target = ("grpc_method", "greeter.v1.Greeter/SayHello"), ("grpc_target", "greeter")
    ok, missing = ("grpc_status", "OK"), ("grpc_status", "NOT_FOUND")
    for name in ("grpc_client_call_duration_seconds", "grpc_client_attempt_duration_seconds"):
        assert called[f"{name}_count", frozenset({method, target, ok})] == 5
        assert called[f"{name}_count", frozenset({method, target, missing})] == 1
        assert 0 < called[f"{name}_sum", frozenset({method, target, ok})] < 5 * 5
    assert called["grpc_client_attempt_started_total", frozenset({method, target})] == 6
    assert called["pymicro_client_node_changes_total", frozenset({target, ("change", "add")})] == 1
    assert called["grpc_subchannel_open_connections", frozenset({target})] == 1
    assert served["grpc_server_call_started_total", frozenset({method})] == 6
    assert served["grpc_server_call_duration_seconds_count", frozenset({method, ok})] == 5
    assert served["grpc_server_call_duration_seconds_count", frozenset({method, missing})] == 1
    assert served["pymicro_server_calls_in_flight", frozenset({method})] == 0


@pytest.mark.parametrize(("accept", "parse"), [("", plain), (OPENMETRICS, openmetrics)])
async def test_a_large_family_comes_in_pieces_and_reads_as_one(
    accept: str, parse: Callable[[str], Any]
) -> None:
    text = await scraped(collector(busy(300)), accept)
    found = values(text, parse)
    counts = [key for key in found if key[0] == "grpc_server_call_duration_seconds_count"]
    assert len([key for key in counts if ("grpc_status", "OK") in key[1]]) == 300
    described = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(described) == len(set(described))
    assert text.count("# EOF") == (1 if accept else 0)


async def test_buckets_are_cumulative_and_bounds_are_within() -> None:
    recorder = Recorder()
    recorder.server.know("/a.A/Get")
    for seconds in (0.0001, 0.0003, 0.01, 100.0):
        recorder.server.method("/a.A/Get").ended[0].add(seconds)
    found = values(await scraped(collector(recorder)))
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "grpc_server_call_duration_seconds_bucket"
    }
    assert list(buckets) == [*map(str, BOUNDS), "+Inf"]
    assert buckets["0.0003"] == 2
    assert buckets["0.005"] == 2
    assert buckets["0.01"] == 3
    assert buckets["20.0"] == 3
    assert buckets["+Inf"] == 4


async def test_names_from_elsewhere_cannot_break_the_text() -> None:
    recorder = Recorder()
    odd = 'a"b\\c\nd{e}'
    recorder.target(odd).method(f"/{odd}/{odd}").once[0].add(1.0)
    for accept, parse in (("", plain), (OPENMETRICS, openmetrics)):
        found = values(await scraped(collector(recorder), accept), parse)
        assert any(("grpc_target", odd) in labels for _, labels in found)


async def test_the_programs_own_metrics_are_there_too() -> None:
    registry = prometheus_client.REGISTRY
    counter = prometheus_client.Counter("orders_total", "Orders.", registry=registry)
    try:
        counter.inc(3)
        found = values(await scraped(collector(Recorder())))
        assert found["orders_total", frozenset()] == 3
        assert ("process_start_time_seconds", frozenset()) in found or sys.platform != "linux"
    finally:
        registry.unregister(counter)


async def test_what_is_counted_meanwhile_breaks_no_scrape() -> None:
    recorder = busy(200)
    _, pieces = Exposition(collector(recorder).collect).write("")
    text = b""
    number = 0
    async for piece in pieces:
        text += piece
        number += 1
        recorder.server.know(f"/new.New/{number}")
        recorder.target(f"new-{number}").method("/a.A/Get").once[14].add(0.1)
    assert number > 50
    assert values(text.decode())


async def test_a_scrape_of_many_series_holds_the_loop_for_5_ms_at_most() -> None:
    recorder = busy(100)
    longest = []
    for _ in range(5):
        steps, series = [], 0
        _, pieces = Exposition(collector(recorder).collect).write("")
        began = time.thread_time()
        async for piece in pieces:
            steps.append(time.thread_time() - began)
            series += piece.count(b"\n")
            await asyncio.sleep(0)
            began = time.thread_time()
        longest.append(max(steps))
        assert series > 3400
    assert min(longest) <= 0.005


def test_statuses_are_gprcs() -> None:
    assert list(STATUSES) == [code.name for code in sorted(grpc.StatusCode, key=lambda code: code.value[0])]


def test_without_the_extra_the_error_names_it() -> None:
    code = """
import sys
sys.modules["prometheus_client"] = None
from pymicro.base.errors import ConfigError
from pymicro.telemetry.exposition import Exposition
from pymicro.telemetry.statuses import STATUSES
try:
    Exposition(lambda: ())
except ConfigError as exc:
    print(exc)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install 'pymicro-grpc[metrics]'" in ran.stdout


def test_pymicro_does_not_need_the_extra() -> None:
    code = "import sys, pymicro, pymicro.runtime.life; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
