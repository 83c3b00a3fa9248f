"""What travels with a call between the languages, and what go-micro's tools ask of a service."""

from __future__ import annotations

import pytest

from tests.cluster.plane import eventually
from tests.gomicro.matrix import SHAPES, TO_GO, TO_PYTHON
from tests.gomicro.scenes import GO_CLIENT, PYTHON, PYTHON_CLIENT, Scene, Scenes

pytestmark = pytest.mark.gomicro

BOTH = pytest.mark.parametrize("direction", [TO_GO, TO_PYTHON], ids=["to-go", "to-pymicro"])
STREAMS = [shape for shape in SHAPES if shape != "unary"]


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    """Without a registry, which makes no difference here."""
    return scenes.get("direct")


def cancelled(scene: Scene, direction: str) -> int:
    """How many handlers of a server have seen their caller go away."""
    result = scene.call(direction, shape="unary", texts=["?"])
    return int(result["answers"][0]["saw"]["cancelled"])


@BOTH
def test_a_call_that_takes_too_long_ends_on_both_sides(scene: Scene, direction: str) -> None:
    before = cancelled(scene, direction)
    result = scene.call(direction, shape="unary", texts=["Ada"], ask={"sleep_ms": 20_000}, timeout_ms=300)
    assert result["took_ms"] < 2_000
    if direction == TO_GO:
        assert result["error"]["type"] == "DeadlineExceeded"
        assert result["error"]["from_peer"] is not True
    else:
        assert (result["error"]["type"], result["error"]["code"]) == ("*errors.Error", 408)
    eventually("the handler was cancelled", lambda: cancelled(scene, direction) == before + 1, 5.0)


@BOTH
def test_a_handler_knows_the_time_its_caller_has_left(scene: Scene, direction: str) -> None:
    result = scene.call(direction, shape="unary", texts=["Ada"], timeout_ms=900)
    assert 0 < int(result["answers"][0]["left_ms"]) <= 900


@pytest.mark.parametrize("shape", STREAMS)
def test_the_timeout_that_a_go_client_puts_on_a_stream_is_not_meant(scene: Scene, shape: str) -> None:
    result = scene.call(
        TO_PYTHON, shape=shape, texts=["Ada"], ask={"count": 1, "sleep_ms": 400}, timeout_ms=100
    )
    assert "error" not in result
    assert result["took_ms"] >= 400
    assert "left_ms" not in result["answers"][0]


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_metadata_and_the_callers_name_arrive(scene: Scene, direction: str, shape: str) -> None:
    # Python's client has keys in lower case only, as HTTP/2 has them; Go's makes them so.
    key = "x-request-id" if direction == TO_GO else "X-Request-Id"
    result = scene.call(direction, shape=shape, texts=["Ada"], ask={"count": 1}, metadata={key: "7 of 9"})
    saw = result["answers"][0]["saw"]
    assert saw["x-request-id"] == "7 of 9"
    assert saw["micro-from-service"] == (PYTHON_CLIENT if direction == TO_GO else GO_CLIENT)


def test_go_micros_health_probe_is_answered(scene: Scene) -> None:
    result = scene.go_caller.ask("health", service=PYTHON, address=scene.python.address)
    assert "error" not in result
    assert result["text"] == "ok"


def test_go_micros_statistics_are_true(scene: Scene) -> None:
    values = scene.go_caller.ask("stats", service=PYTHON, address=scene.python.address)["values"]
    assert abs(values["timestamp"] - values["started"] - values.get("uptime", 0)) <= 1
    assert values["memory"] > 1 << 20
    assert values["threads"] >= 1


def test_a_method_that_is_not_there_is_a_501_that_go_does_not_try_again(scene: Scene) -> None:
    result = scene.go_caller.ask("health", service="no.such", address=scene.python.address)
    # Debug is found by its last segment, whatever go-micro calls the service.
    assert result["text"] == "ok"
