"""grpc-js, a gRPC stack that shares nothing with grpc-core: shapes, deadlines, cancelling, metadata.

Run by `make test-peers`, which installs it.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.processes import ROOT, Process, Processes

pytestmark = pytest.mark.peers


@pytest.fixture
def server(processes: Processes) -> Process:
    """A running greeter that tells what reaches it."""
    return processes.pymicro(
        "run",
        "tests/peers/watched.py",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples/greeter")]),
    )


@pytest.fixture
def address(server: Process) -> str:
    return server.wait_for(r"watched.*?(127\.0\.0\.1:\d+)")[1]


def call(address: str, method: str, *requests: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Make one call; a missing grpc-js is a failure, not a skipped test."""
    folder = os.environ.get("GRPC_JS")
    assert folder, "GRPC_JS is not set: run `make test-peers`"
    done = subprocess.run(
        [
            *(
                "node",
                "--no-deprecation",
                str(ROOT / "tests/peers/js/client.js"),
                address,
                str(ROOT / "protos"),
            ),
            json.dumps({"method": method, "requests": requests, **options}),
        ],
        env={**os.environ, "NODE_PATH": f"{folder}/node_modules"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_four_shapes(address: str) -> None:
    unary = call(address, "SayHello", {"name": "Ada"})
    assert (unary["code"], unary["responses"][0]["message"]) == ("OK", "Hello Ada")
    down = call(address, "CountDown", {"from": 3})
    assert [response["number"] for response in down["responses"]] == [3, 2, 1]
    everybody = call(address, "GreetAll", {"name": "Ada"}, {"name": "Grace"})
    assert everybody["responses"][0]["message"] == "Ada, Grace"
    chat = call(address, "Chat", {"text": "one"}, {"text": "two"})
    assert [response["text"] for response in chat["responses"]] == ["You said: one", "You said: two"]
    assert {result["code"] for result in (down, everybody, chat)} == {"OK"}


def test_metadata_both_ways(address: str) -> None:
    done = call(address, "SayHello", {"name": "Ada"}, metadata={"who": "Grace"})
    assert done["metadata"]["asked-by"] == "Grace"
    assert done["trailers"]["answered-in"] == "time"
    assert done["trailers"]["raw-bin"] == {"type": "Buffer", "data": [0, 255]}


def test_an_error_arrives_with_code_text_and_trailers(address: str) -> None:
    done = call(address, "SayHello", {"name": "nobody"})
    assert (done["code"], done["details"]) == ("NOT_FOUND", "größe: nobody of that name")
    assert done["trailers"]["answered-in"] == "time"


def test_the_caller_s_deadline_is_known_and_ends_the_handler(server: Process, address: str) -> None:
    assert call(address, "SayHello", {"name": "Ada"})["responses"][0]["pid"] == -1
    assert call(address, "SayHello", {"name": "Ada"}, timeout=60_000)["responses"][0]["pid"] in (58, 59)
    done = call(address, "SayHello", {"name": "wait"}, timeout=300)
    assert done["code"] == "DEADLINE_EXCEEDED"
    server.wait_for("SayHello was cancelled")


def test_a_cancelled_stream_ends_its_handler(server: Process, address: str) -> None:
    done = call(address, "CountDown", {"from": 5}, cancelAfter=5)
    assert done["code"] == "CANCELLED"
    assert len(done["responses"]) == 5
    server.wait_for("CountDown was cancelled")


def test_a_method_that_is_not_there(processes: Processes) -> None:
    other = processes.pymicro("run", "examples/greeter/front.py")
    address = other.wait_for(r"reception.*?(127\.0\.0\.1:\d+)")[1]
    done = call(address, "SayHello", {"name": "Ada"})
    assert done["code"] == "UNIMPLEMENTED"
    assert "this server has" in done["details"]
