"""What travels with a call between the languages, and what go-micro's tools ask of a service."""

from __future__ import annotations

import pytest

from tests.cluster.plane import eventually
from tests.gomicro.matrix import CODECS, SHAPES, TO_GO, TO_PYTHON
from tests.gomicro.scenes import GO, GO_CLIENT, PYTHON, PYTHON_CLIENT, Scene, Scenes

pytestmark = pytest.mark.gomicro

BOTH = pytest.mark.parametrize("direction", [TO_GO, TO_PYTHON], ids=["to-go", "to-pymicro"])
JSON = CODECS["json"]
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


def test_a_go_client_that_mixes_codecs_on_one_connection_gets_its_answers(scene: Scene) -> None:
    for codec in ("proto", "json", "proto"):
        result = scene.go_caller.ask(
            "call",
            service=PYTHON,
            address=scene.python.address,
            shape="unary",
            codec=CODECS[codec],
            texts=["Ada"],
        )
        assert [answer["text"] for answer in result["answers"]] == ["Hello Ada"]


def test_go_micros_health_probe_is_answered(scene: Scene) -> None:
    result = scene.ask_go("health")
    assert "error" not in result
    assert result["text"] == "ok"


def test_go_micros_statistics_are_true(scene: Scene) -> None:
    values = scene.ask_go("stats")["values"]
    assert abs(values["timestamp"] - values["started"] - values.get("uptime", 0)) <= 1
    assert values["memory"] > 1 << 20
    assert values["threads"] >= 1


def test_a_call_by_hand_gets_the_same_json_of_both_languages(scene: Scene) -> None:
    asked = {"endpoint": "Peer.Hello", "body": {"text": "Ada", "sleep_ms": 1, "tags": {"a": "b"}}}
    python = scene.ask_go("call_by_hand", codec=JSON, **asked)["body"]
    go = scene.new_go_caller().ask("call_by_hand", service=GO, address=scene.go.address, **asked)["body"]
    assert go["saw"].pop("tag-a") == python["saw"].pop("tag-a") == "b"
    assert go["text"] == python["text"] == "Hello Ada"
    # Names and types as the gateway's clients have them: a 64-bit number is a text.
    assert {key: type(value) for key, value in python.items()} == {
        key: type(value) for key, value in go.items()
    }


@pytest.mark.parametrize("endpoint", ["Peer.Missing", "Missing.Hello"])
def test_go_is_told_that_a_method_is_not_there(scene: Scene, endpoint: str) -> None:
    error = scene.ask_go("call_by_hand", codec=JSON, endpoint=endpoint, body={})["error"]
    assert (error["type"], error["code"], error["id"]) == ("*errors.Error", 501, PYTHON)


def test_json_that_does_not_fit_the_request_is_told_with_its_reason(scene: Scene) -> None:
    error = scene.ask_go("call_by_hand", codec=JSON, endpoint="Peer.Hello", body={"count": "many"})["error"]
    assert (error["type"], error["id"]) == ("*errors.Error", PYTHON)
    assert "count" in error["detail"]
