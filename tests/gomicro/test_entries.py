"""What each language writes into a registry, read by the other: with its own plug-in, and by its tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.plane import eventually
from tests.gomicro.peers import Object
from tests.gomicro.scenes import GO, PYTHON, Scene, Scenes

pytestmark = pytest.mark.gomicro

ENDPOINTS = ["Peer.Feed", "Peer.Gather", "Peer.Hello", "Peer.Talk"]


@pytest.fixture(params=["etcd", "mdns", "kubernetes"])
def scene(scenes: Scenes, request: pytest.FixtureRequest) -> Scene:
    return scenes.get(request.param)


def read_by_go(scene: Scene, service: str) -> Object:
    """The one record of a service, of which there is one version."""
    # Over mdns a look-up takes what has arrived in 100 ms.
    (found,) = eventually(
        f"Go finds {service}", lambda: scene.go_caller.ask("get_service", service=service).get("services")
    )
    return dict(found)


def test_go_reads_who_and_where_a_pymicro_node_is(scene: Scene) -> None:
    record = read_by_go(scene, PYTHON)
    assert (record["name"], record["version"]) == (PYTHON, "1.0.0")
    (node,) = record["nodes"]
    assert (node["id"], node["address"]) == (scene.python.node, scene.python.address)
    # What a Go node says of itself, and go-micro's monitor, proxies and mucp clients go by.
    go = read_by_go(scene, GO)["nodes"][0]["metadata"]
    for key in ("protocol", "server", "transport"):
        assert node["metadata"][key] == go[key] == "grpc"


def test_go_reads_the_same_endpoints_of_a_pymicro_node_as_of_one_in_go(scene: Scene) -> None:
    go, python = (
        {endpoint["name"]: endpoint for endpoint in read_by_go(scene, service)["endpoints"]}
        for service in (GO, PYTHON)
    )
    assert sorted(python) == sorted(go) == ENDPOINTS
    for name in ENDPOINTS:
        assert (python[name]["metadata"] or {}).get("stream") == (go[name]["metadata"] or {}).get("stream")
    hello = {side: described(endpoints["Peer.Hello"]) for side, endpoints in (("go", go), ("python", python))}
    assert hello["python"] == hello["go"]


def described(endpoint: Object) -> dict[str, Any]:
    """Names of the messages and of their fields, with the types of those that have one in both languages."""
    return {
        side: (
            endpoint[side]["name"],
            {
                value["name"]: value["type"] if value["type"] in ("string", "int32", "int64") else "?"
                for value in endpoint[side]["values"]
            },
        )
        for side in ("request", "response")
    }


def test_pymicro_reads_who_and_where_a_go_node_is(scene: Scene) -> None:
    (node,) = json.loads(scene.pymicro("nodes", GO, "-o", "json"))
    assert (node["id"], node["address"], node["service"]) == (scene.go.node, scene.go.address, GO)
    # go-micro's default is the minute of its start.
    assert node["version"]
    assert node["metadata"]["protocol"] == "grpc"
    assert node["metadata"]["registry"] == scene.registry


def test_each_language_lists_the_services_of_the_other(scene: Scene) -> None:
    def listed_by_go() -> set[str]:
        return {record["name"] for record in scene.go_caller.ask("list_services").get("services", [])}

    eventually("Go lists both", lambda: {GO, PYTHON} <= listed_by_go(), 10.0)
    by_python = json.loads(scene.pymicro("services", "-o", "json"))
    assert {GO, PYTHON} <= {found["name"] for found in by_python}


def test_what_pymicro_calls_by_hand_is_found_in_the_registry(scene: Scene) -> None:
    answer = json.loads(scene.pymicro("call", PYTHON, "Peer.Hello", '{"text": "Ada"}'))
    assert (answer["text"], answer["node"]) == ("Hello Ada", scene.python.node)
