"""What a real OpenTelemetry collector got of three services: spans of calls, across processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.telemetry.real.collector import CLIENT, ERROR, INTERNAL, SERVER, Span
from tests.telemetry.real.scene import METHOD, SHAPES, Recording, places

pytestmark = pytest.mark.telemetry


class Trace:
    """The spans of one trace of the scene.

    Attributes:
        top: The one that the driver made itself.
    """

    def __init__(self, recording: Recording, name: str) -> None:
        self._spans = [span for span in recording.spans if span.trace == recording.traces[name]]
        (self.top,) = [span for span in self._spans if not span.parent]
        assert self.top.name == f"the scene: {name}"

    def __len__(self) -> int:
        return len(self._spans)

    def within(self, parent: Span) -> list[Span]:
        """What happened within a span."""
        return [span for span in self._spans if span.parent == parent.id]

    def only(self, parent: Span, kind: int) -> Span:
        """The one span within another, of this kind."""
        (span,) = self.within(parent)
        assert span.kind == kind
        return span


@pytest.fixture
def read(recording: Recording) -> Callable[[str], Trace]:
    return lambda name: Trace(recording, name)


def host(address: object) -> str:
    return str(address).partition(":")[0]


def hosts(job: str) -> set[str]:
    return {host(place.address) for place in places().values() if place.job == job}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_of_each_shape_is_a_span_on_each_end(read: Callable[[str], Trace], shape: str) -> None:
    trace = read(shape)
    client = trace.only(trace.top, CLIENT)
    server = trace.only(client, SERVER)
    assert len(trace) == 3
    assert (client.process, server.process) == ("driver", "front")
    assert client.name == server.name == METHOD + shape
    common = {"rpc.system.name": "grpc", "rpc.method": METHOD + shape, "rpc.response.status_code": "OK"}
    peer = client.attributes["network.peer.address"]
    assert dict(client.attributes) == {**common, "server.address": "front", "network.peer.address": peer}
    assert dict(server.attributes) == common
    # The peer is the process that served it.
    assert host(peer) == host(places()[server.instance].address)
    assert client.status == server.status == 0
    assert 0 <= server.seconds <= client.seconds


def test_a_call_through_all_services_is_one_trace(read: Callable[[str], Trace]) -> None:
    trace = read("onward")
    above, path = trace.top, []
    for target in ("front", "orders", "stock"):
        client = trace.only(above, CLIENT)
        server = trace.only(client, SERVER)
        assert client.attributes["server.address"] == server.process == target
        assert host(client.attributes["network.peer.address"]) in hosts(target)
        path.append(client.process)
        above = server
    assert path == ["driver", "front", "orders"]
    assert trace.within(above) == []
    assert len(trace) == 7


def test_attempts_are_spans_where_there_was_a_second(read: Callable[[str], Trace]) -> None:
    trace = read("retried")
    call = trace.only(trace.top, CLIENT)
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.status == 0
    inside = trace.within(call)
    attempts = sorted(
        (span for span in inside if span.kind == INTERNAL),
        key=lambda span: span.attributes["pymicro.attempt"],
    )
    assert [span.name for span in attempts] == ["Attempt", "Attempt"]
    assert [span.attributes["pymicro.attempt"] for span in attempts] == [1, 2]
    assert [span.attributes["rpc.response.status_code"] for span in attempts] == ["UNAVAILABLE", "OK"]
    assert [span.status for span in attempts] == [ERROR, 0]
    assert attempts[0].attributes["error.type"] == "UNAVAILABLE"
    assert "error.type" not in attempts[1].attributes
    # Both were served, by different nodes, and each knows its call.
    served = [span for span in inside if span.kind == SERVER]
    assert {span.attributes["rpc.response.status_code"] for span in served} == {"UNAVAILABLE", "OK"}
    assert len({span.instance for span in served}) == 2
    peers = {host(span.attributes["network.peer.address"]) for span in attempts}
    assert peers == {host(places()[span.instance].address) for span in served}
    assert len(inside) == 4


def test_no_attempt_has_a_span_where_there_was_one_only(recording: Recording) -> None:
    calls = {span.id: span for span in recording.spans if span.kind == CLIENT}
    attempts = [span for span in recording.spans if span.name == "Attempt"]
    assert len(attempts) >= 2 * recording.retried
    numbers: dict[str, list[int]] = {}
    for span in attempts:
        assert span.process == calls[span.parent].process
        numbers.setdefault(span.parent, []).append(span.attributes["pymicro.attempt"])
    for found in numbers.values():
        assert sorted(found) == list(range(1, len(found) + 1))
        assert len(found) >= 2


def test_an_answer_about_the_request_is_an_error_of_the_caller_only(read: Callable[[str], Trace]) -> None:
    trace = read("failed")
    client = trace.only(trace.top, CLIENT)
    server = trace.only(client, SERVER)
    assert client.attributes["error.type"] == client.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert client.status == ERROR
    assert server.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert "error.type" not in server.attributes
    assert server.status == 0


def test_a_failure_behind_a_service_is_told_in_each_place(read: Callable[[str], Trace]) -> None:
    trace = read("crashed")
    found = []
    above = trace.top
    for _ in range(2):
        client = trace.only(above, CLIENT)
        server = trace.only(client, SERVER)
        found += [(span.process, span.attributes["error.type"], span.status) for span in (client, server)]
        above = server
    assert found == [
        ("driver", "INTERNAL", ERROR),
        ("front", "INTERNAL", ERROR),
        ("front", "DATA_LOSS", ERROR),
        ("orders", "DATA_LOSS", ERROR),
    ]


def test_a_call_that_was_refused_is_a_span_in_its_callers_trace(read: Callable[[str], Trace]) -> None:
    trace = read("full")
    ends = [span.attributes["rpc.response.status_code"] for span in trace.within(trace.top)]
    assert {span.kind for span in trace.within(trace.top)} == {SERVER}
    assert set(ends) == {"OK", "RESOURCE_EXHAUSTED"}
    assert ends.count("OK") >= 20

    trace = read("unknown")
    server = trace.only(trace.top, SERVER)
    assert server.process == "stock"
    # A name that a stranger made up is no name of a span.
    assert "no.such" not in server.name
    assert server.attributes["rpc.method_original"] == "no.such.v1.Service/Get"
    assert server.attributes["rpc.response.status_code"] == "UNIMPLEMENTED"


def test_every_call_of_the_good_times_has_its_spans(recording: Recording) -> None:
    """None is lost, and none is there twice."""
    calls = [
        span
        for span in recording.spans
        if span.kind == CLIENT and span.process == "driver" and span.attributes["server.address"] == "front"
    ]
    made = recording.prometheus.value(
        'sum(last_over_time(grpc_client_call_duration_seconds_count{job="driver"}[10m]))', recording.end
    )
    assert len(calls) == made
    assert len({span.id for span in recording.spans}) == len(recording.spans)
