"""Nodes of each language come and go, and the other sees it by its registry's own watch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.cluster.plane import eventually
from tests.gomicro.peers import Caller, Object
from tests.gomicro.scenes import Scene, Scenes

pytestmark = pytest.mark.gomicro

# A lease must run out while the test waits.
SHORT = {"MICRO_REGISTER_TTL": "3", "MICRO_REGISTER_INTERVAL": "1"}

# What watchers are told is looked at, not who finishes calls.
QUICK = {"MICRO_DRAIN_DELAY": "200ms"}

COMES, GOES = ("create", "update"), ("delete",)

NUMBERS = itertools.count(1)


@pytest.fixture(params=["etcd", "mdns", "kubernetes"])
def scene(scenes: Scenes, request: pytest.FixtureRequest) -> Scene:
    return scenes.get(request.param)


@pytest.fixture
def service() -> str:
    """A name that no other test has used."""
    return f"go.micro.srv.changing{next(NUMBERS)}"


def ids(event: Any) -> set[str]:
    """Of a set of nodes, as Python's watch yields them."""
    return {node["id"] for node in event}


def shows(event: Object, actions: tuple[str, ...], node: str) -> bool:
    """Whether a change, as Go's watch yields them, is one of these of a node."""
    return event["Action"] in actions and node in {found["id"] for found in event["Service"]["nodes"]}


def listed_by_go(scene: Scene, service: str) -> set[str]:
    """The nodes that a look-up of Go's finds now."""
    records = scene.go_caller.ask("get_service", service=service).get("services", [])
    return {node["id"] for record in records for node in record["nodes"]}


def go_finds(scene: Scene, service: str, nodes: set[str]) -> None:
    """Wait until a look-up of Go's finds these: over mdns it takes what has arrived in 100 ms."""
    eventually(f"Go finds {nodes}", lambda: listed_by_go(scene, service) == nodes, 10.0)


def test_pymicro_sees_go_nodes_come_and_go(scene: Scene, service: str) -> None:
    watch = scene.python_caller.watch(service)
    one = scene.start("go", service, "a")
    watch.until("the first is there", lambda event: ids(event) == {one.node})
    two = scene.start("go", service, "b")
    watch.until("both are there", lambda event: ids(event) == {one.node, two.node})
    one.stop()
    watch.until("the first has gone", lambda event: ids(event) == {two.node})
    two.stop()
    watch.until("none is there", lambda event: ids(event) == set())


def test_go_sees_pymicro_nodes_come_and_go(scene: Scene, service: str) -> None:
    watch = scene.go_caller.watch(service)
    one = scene.start("python", service, "a", **QUICK)
    watch.until("the first is there", lambda event: shows(event, COMES, one.node), nudge=one.touch)
    two = scene.start("python", service, "b", **QUICK)
    watch.until("the second is there", lambda event: shows(event, COMES, two.node), nudge=two.touch)
    go_finds(scene, service, {one.node, two.node})
    one.stop()
    watch.until("the first has gone", lambda event: shows(event, GOES, one.node))
    go_finds(scene, service, {two.node})
    two.stop()
    watch.until("the second has gone", lambda event: shows(event, GOES, two.node))
    go_finds(scene, service, set())


def test_nodes_of_both_languages_serve_under_one_name(scene: Scene, service: str) -> None:
    started = [
        scene.start(language, service, ident, **QUICK)
        for language, ident in (("go", "a"), ("go", "b"), ("python", "c"), ("python", "d"))
    ]
    nodes = {peer.node for peer in started}
    go_finds(scene, service, nodes)
    for caller in (scene.go_caller, scene.python_caller):
        answered: set[str] = set()

        def all_answer(caller: Caller = caller, answered: set[str] = answered) -> bool:
            result = caller.ask("call", service=service, shape="unary", texts=["Ada"])
            assert "error" not in result, result
            answered.add(result["answers"][0]["node"])
            return answered == nodes

        eventually(f"all answer {caller.name}", all_answer, 10.0)
    for peer in started:
        peer.stop()


def test_a_killed_node_leaves_etcd_with_its_lease(scenes: Scenes, service: str) -> None:
    scene = scenes.get("etcd")
    by_go, by_python = scene.go_caller.watch(service), scene.python_caller.watch(service)
    go = scene.start("go", service, "a", **SHORT)
    python = scene.start("python", service, "b", **SHORT)
    both = {go.node, python.node}
    by_python.until("both are there", lambda event: ids(event) == both)
    go_finds(scene, service, both)
    python.kill()
    by_go.until("Python's has gone", lambda event: shows(event, GOES, python.node))
    by_python.until("Python's has gone", lambda event: ids(event) == {go.node})
    go.kill()
    by_go.until("Go's has gone", lambda event: shows(event, GOES, go.node))
    by_python.until("Go's has gone", lambda event: ids(event) == set())


def test_a_lease_is_kept_alive_for_as_long_as_the_node_lives(scenes: Scenes, service: str) -> None:
    scene = scenes.get("etcd")
    python = scene.start("python", service, "a", **SHORT)
    witness = scene.start("go", service, "b", **SHORT)
    by_go = scene.go_caller.watch(service)
    # Go's lease, granted later and not renewed, has run out: a whole time to live has passed.
    witness.kill()
    by_go.until("Go's has gone", lambda event: shows(event, GOES, witness.node))
    assert not any(shows(event, GOES, python.node) for event in by_go.seen)
    go_finds(scene, service, {python.node})
    python.stop()


def test_a_killed_node_is_found_by_no_lookup_over_mdns(scenes: Scenes, service: str) -> None:
    scene = scenes.get("mdns")
    by_python = scene.python_caller.watch(service)
    go = scene.start("go", service, "a")
    python = scene.start("python", service, "b")
    by_python.until("both are there", lambda event: ids(event) == {go.node, python.node})
    python.kill()
    go.kill()
    go_finds(scene, service, set())
    by_python.until("both are missed", lambda event: ids(event) == set(), 60.0)


def test_a_killed_pod_is_called_again_under_its_old_record(scenes: Scenes, service: str) -> None:
    scene = scenes.get("kubernetes")
    by_python = scene.python_caller.watch(service)
    go = scene.start("go", service, "a")
    python = scene.start("python", service, "b", **QUICK)
    both = {go.node, python.node}
    by_python.until("both are there", lambda event: ids(event) == both)
    python.kill()
    by_python.until("Python's is not ready", lambda event: ids(event) == {go.node})
    # go-micro goes by the record alone, and the record stays.
    assert listed_by_go(scene, service) == both
    by_python.until("Python's has restarted", lambda event: ids(event) == both)
    go.kill()
    for caller in (scene.go_caller, scene.python_caller):
        answered: set[str] = set()

        def both_answer(caller: Caller = caller, answered: set[str] = answered) -> bool:
            result = caller.ask("call", service=service, shape="unary", texts=["Ada"])
            answered.update(answer["node"] for answer in result.get("answers", []))
            return answered == both

        eventually(f"both answer {caller.name}", both_answer, 10.0)
    for peer in (go, python):
        peer.stop()
