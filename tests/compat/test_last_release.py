"""This checkout and the last release: each calls the other, and reads what the other has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.discovery.registries.mdns_support import free_port
from tests.etcd_server import Etcd
from tests.processes import ROOT, Process, Processes

pytestmark = pytest.mark.compat

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Side:
    """One version of pymicro, with code that it has generated itself."""

    python: str
    code: Path

    def start(self, processes: Processes, *argv: str, **env: str) -> Process:
        return processes.start(self.python, *argv, cwd=self.code, PYTHONPATH=str(self.code), **env)

    def printed(self, processes: Processes, *argv: str, **env: str) -> Any:
        """What a program prints, as JSON; it must succeed."""
        process = self.start(processes, *argv, **env)
        assert process.wait(60) == 0, process.report()
        return json.loads("\n".join(process.stdout))


@dataclass
class Pair:
    """A server of one version, a client of the other, and where they meet."""

    processes: Processes
    server: Side
    client: Side
    env: dict[str, str]

    def serve(self, count: int = 1, **env: str) -> list[str]:
        """Start so many greeters; their addresses."""
        started = [
            self.server.start(self.processes, str(HERE / "server.py"), **self.env, **env)
            for _ in range(count)
        ]
        return [process.wait_for(r"(127\.0\.0\.1:\d+)")[1] for process in started]

    def play(self, scene: str, **env: str) -> Any:
        """What the client got."""
        return self.client.printed(self.processes, str(HERE / "client.py"), scene, **self.env, **env)

    def asked(self, side: Side, *command: str) -> Any:
        """What `pymicro …` of one side prints with `-o json`."""
        return side.printed(self.processes, "-m", "pymicro", *command, "-o", "json", **self.env)


@pytest.fixture(scope="session")
def released() -> Side:
    python = os.environ.get("LAST_RELEASE")
    assert python, "run `make test-compat`: it names the last release (LAST_RELEASE)"
    return Side(python, Path(python).parents[2] / "greeter")


@pytest.fixture
def this() -> Side:
    return Side(sys.executable, ROOT / "examples" / "greeter")


@pytest.fixture(params=["the last release serves", "this checkout serves"])
def pair(
    request: pytest.FixtureRequest, released: Side, this: Side, processes: Processes, registry_folder: str
) -> Pair:
    server, client = (released, this) if request.param == "the last release serves" else (this, released)
    return Pair(processes, server, client, {"MICRO_REGISTRY_ADDRESS": registry_folder})


@pytest.fixture(params=["local", "etcd", "mdns"])
def met(request: pytest.FixtureRequest, pair: Pair, tmp_path: Path) -> Iterator[Pair]:
    """The pair, meeting in this registry."""
    with ExitStack() as stack:
        addresses = {
            "local": lambda: pair.env["MICRO_REGISTRY_ADDRESS"],
            "etcd": lambda: stack.enter_context(Etcd(tmp_path)).address,
            "mdns": lambda: f"127.0.0.1:{free_port()}",
        }
        pair.env |= {"MICRO_REGISTRY": request.param, "MICRO_REGISTRY_ADDRESS": addresses[request.param]()}
        yield pair
        pair.processes.end()


SHAPES = {
    "unary_unary": "Hello Ada",
    "unary_stream": [3, 2, 1],
    "stream_unary": "Hello Ada, Grace",
    "stream_stream": ["You said: one", "You said: two"],
    "idempotent": True,
}


def test_the_two_are_not_the_same_pymicro(released: Side, this: Side) -> None:
    code = "import pymicro; print(pymicro.__file__)"
    found = {
        subprocess.run([side.python, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout
        for side in (released, this)
    }
    assert len(found) == 2
    assert f"{ROOT}/pymicro/__init__.py\n" in found


def test_each_finds_and_calls_the_other(met: Pair) -> None:
    met.serve()
    assert met.play("shapes") == SHAPES


def test_each_reads_the_records_of_the_other(met: Pair) -> None:
    (address,) = met.serve()
    theirs = met.asked(met.client, "nodes", "greeter")
    assert [node["address"] for node in theirs] == [address]
    assert theirs[0]["metadata"]["written-by"] == "somebody else"
    assert theirs[0]["version"] == "1.0.0"
    assert theirs == met.asked(met.server, "nodes", "greeter")
    assert met.asked(met.client, "services") == met.asked(met.server, "services")


def test_each_calls_the_other_at_an_address(pair: Pair) -> None:
    (address,) = pair.serve()
    there = {"MICRO_REGISTRY": "static", "MICRO_REGISTRY_ADDRESS": f"greeter={address}"}
    pair.env |= there
    assert pair.play("shapes") == SHAPES


def test_errors_with_their_details_and_deadlines_cross(pair: Pair) -> None:
    pair.serve()
    found = pair.play("errors")
    # grpc sends 1000 s with two or three digits of it, and rounds up.
    assert 980 < int(found.pop("left").partition(" ")[0]) <= 1010
    assert found == {
        "details": "name is empty",
        "from_peer": True,
        "reason": "NO_NAME",
        "domain": "greeter",
        "metadata": {"field": "name"},
        "deadline": "exceeded",
    }


def test_a_call_that_may_run_twice_outlives_its_node(pair: Pair) -> None:
    pair.serve(2)
    assert pair.play("killed") == {"answered_by_the_other": True}


def test_a_call_that_one_node_refuses_is_taken_by_the_other(pair: Pair) -> None:
    pair.serve(2, MICRO_MAX_CONCURRENT_CALLS="1")
    assert pair.play("refused", MICRO_BALANCER="random") == {"served_by": 2}


def test_each_sees_the_health_and_the_methods_of_the_other(pair: Pair) -> None:
    (address,) = pair.serve()
    (health,) = pair.asked(pair.client, "health", "greeter")
    assert (health["address"], health["status"]) == (address, "SERVING")
    assert pair.asked(pair.client, "list", "greeter") == pair.asked(pair.server, "list", "greeter")


def test_what_a_later_version_adds_to_a_record_is_passed_over(pair: Pair, registry_folder: str) -> None:
    pair.serve()
    before = pair.asked(pair.client, "nodes", "greeter")
    (file,) = Path(registry_folder).glob("*.node")
    document = json.loads(file.read_text())
    document |= {"future": {"a": [1]}, "metadata": {**document["metadata"], "future": "1"}}
    document["endpoints"][0] |= {"future": True}
    file.write_text(json.dumps(document))
    for side in (pair.client, pair.server):
        (node,) = pair.asked(side, "nodes", "greeter")
        assert node["metadata"].pop("future") == "1"
        assert [node] == before
    assert pair.play("shapes") == SHAPES
