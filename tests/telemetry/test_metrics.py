"""What a scraper reads: names, labels, values, and how little the event loop notices."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import prometheus_client
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro.base.recorder import BOUNDS, Durations, Exemplar, Recorder
from pymicro.telemetry.collector import Collector
from pymicro.telemetry.exposition import Exposition
from pymicro.telemetry.statuses import STATUSES
from pymicro.testing import running
from tests.certificates import Folder
from tests.machine import least_cpu

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


# Exemplars


def exemplars(text: str) -> dict[tuple[str, str, str], Any]:
    """By the histogram's name, the status and the bound."""
    return {
        (sample.name, sample.labels["grpc_status"], sample.labels["le"]): sample.exemplar
        for family in openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }


async def test_the_last_sampled_call_of_each_bucket_is_its_exemplar_where_openmetrics_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    service = pymicro.Service("greeter")
    rpc.add_GreeterServicer_to_server(Greeter(), service)
    async with running(service) as ran:
        greet = rpc.GreeterStub(ran.channel("greeter"))
        for _ in range(3):
            await greet.SayHello(pb.HelloRequest(name="Ada"))
        with pytest.raises(pymicro.NotFound):
            await greet.SayHello(pb.HelloRequest(name="fail"))
        async with asyncio.timeout(10):
            while len(exporter.get_finished_spans()) < 8:  # noqa: ASYNC110  # exporters tell nobody
                await asyncio.sleep(0.005)
        assert ran.client.recorder is not None
        ends = {
            "client": collector(ran.client.recorder),
            "server": collector(ran.node._life._client.recorder),
        }
        for end, one in ends.items():
            found = exemplars(await scraped(one, OPENMETRICS))
            name = f"grpc_{end}_call_duration_seconds_bucket"
            assert {status for called, status, _ in found if called == name} == {"OK", "NOT_FOUND"}
            kept = {
                (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
                for span in exporter.get_finished_spans()
                if span.kind.name.lower() == end
            }
            for (_, _, bound), exemplar in found.items():
                assert (exemplar.labels["trace_id"], exemplar.labels["span_id"]) in kept
                assert exemplar.value <= float(bound)
                assert 0 <= time.time() - float(exemplar.timestamp) < 60
            plain_text = await scraped(one)
            assert "trace_id" not in plain_text
            assert values(plain_text)


async def test_an_exemplar_stands_at_the_bucket_that_its_value_is_in() -> None:
    recorder = Recorder()
    recorder.server.know("/a.A/Get")
    durations = recorder.server.method("/a.A/Get").ended[0]
    for number, seconds in enumerate((0.0001, 0.004, 0.0045, 100.0)):
        durations.add(seconds)
        durations.exemplify(seconds, f"{number:032x}", f"{number:016x}")
    durations.add(0.004)  # one that is not sampled takes nothing away
    found = exemplars(await scraped(collector(recorder), OPENMETRICS))
    assert {bound: int(exemplar.labels["trace_id"], 16) for (_, _, bound), exemplar in found.items()} == {
        "0.0003": 0,
        "0.005": 2,
        "+Inf": 3,
    }


def test_exemplars_take_bounded_room_and_none_without_tracing() -> None:
    durations = Durations()
    durations.add(0.1)
    assert durations.exemplars is None
    for number in range(1000):
        durations.exemplify(number / 10, "a", "b")
    assert durations.exemplars is not None
    assert len(durations.exemplars) <= len(BOUNDS) + 1


def test_of_two_exemplars_for_a_bucket_the_newer_one_stays() -> None:
    old, new = Durations(), Durations()
    old.exemplars = {3: Exemplar("old", "", 0.004, 1.0), 4: Exemplar("old", "", 0.01, 1.0)}
    new.exemplars = {3: Exemplar("new", "", 0.004, 2.0)}
    for both in (old.plus(new), new.plus(old)):
        assert both.exemplars is not None
        assert {place: one.trace_id for place, one in both.exemplars.items()} == {3: "new", 4: "old"}
    assert Durations().plus(Durations()).exemplars is None
    assert old.exemplars[3].trace_id == "old"


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

    async def longest() -> float:
        steps, series = [], 0
        _, pieces = Exposition(collector(recorder).collect).write("")
        began = time.thread_time()
        async for piece in pieces:
            steps.append(time.thread_time() - began)
            series += piece.count(b"\n")
            await asyncio.sleep(0)
            began = time.thread_time()
        assert series > 3400
        return max(steps)

    assert await least_cpu(longest, 0.005) <= 0.005


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


@pytest.mark.parametrize("transport", ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])])
async def test_certificates_and_handshakes_are_counted(tmp_path: Path, transport: str) -> None:
    folders, authority = {}, trustme.CA()
    for name in ("greeter", "cart"):
        folders[name] = Folder(tmp_path / name)
        folders[name].issue(authority, name)
    registry = pymicro.MemoryRegistry()
    given: dict[str, Any] = {"registry": registry, "transport": transport}
    service = pymicro.Service("greeter", **given, **folders["greeter"].settings)
    service.add(Greeter())
    async with service, pymicro.Client(**given, **folders["cart"].settings) as client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
        async with grpc.aio.insecure_channel(service.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):  # no TLS, so no handshake that ends well
                await rpc.GreeterStub(channel).SayHello(pb.HelloRequest(), timeout=10)
        made = [collector(Recorder(), identity=one) for one in (service.client.identity, client.identity)]
        served, called = [values(await scraped(one)) for one in made]
        assert client.identity is not None
        end = client.identity.current.not_after
    expiry = ("pymicro_tls_certificate_expiry_timestamp_seconds", frozenset())
    assert called[expiry] == end
    taken, refused = (
        called["pymicro_tls_certificates_total", frozenset({("result", result)})]
        for result in ("taken", "refused")
    )
    assert (taken, refused) == (1, 0)
    assert called["grpc_client_tls_handshakes_total", frozenset({("result", "ok")})] == 1

    def handshakes(result: str) -> float | None:
        return served.get(("grpc_server_tls_handshakes_total", frozenset({("result", result)})))

    if transport == "grpc":
        begun = handshakes("begun")
        assert begun is not None
        assert begun >= 2
        assert handshakes("ok") is None
    else:
        failed = handshakes("failed")
        assert handshakes("ok") == 1
        assert failed is not None
        assert failed >= 1
