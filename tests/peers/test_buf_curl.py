"""buf curl, which is built on connect-go and knows a service by its reflection.

Run by `make test-peers`, which installs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Processes

pytestmark = pytest.mark.peers


@pytest.fixture
def greeter(processes: Processes) -> str:
    """The address of a running greeter."""
    server = processes.pymicro("run", "examples/greeter/server.py")
    return server.wait_for(r"greeter.*?(127\.0\.0\.1:\d+)")[1]


def curl(
    address: str, method: str, *requests: dict[str, object], reflect: str
) -> subprocess.CompletedProcess[str]:
    """Call a method; a missing buf is a failure, not a skipped test."""
    return subprocess.run(
        [
            *(
                str(Path(sys.executable).with_name("buf")),
                "curl",
                "--protocol",
                "grpc",
                "--http2-prior-knowledge",
            ),
            *("--reflect-protocol", reflect, "--data", "@-", f"http://{address}/greeter.v1.Greeter/{method}"),
        ],
        input="\n".join(map(json.dumps, requests)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def documents(text: str) -> list[dict[str, object]]:
    """The JSON documents that it printed."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


@pytest.mark.parametrize("reflect", ["grpc-v1", "grpc-v1alpha"])
def test_all_four_shapes_by_either_reflection(greeter: str, reflect: str) -> None:
    unary = curl(greeter, "SayHello", {"name": "Ada"}, reflect=reflect)
    assert unary.returncode == 0, unary.stderr
    assert documents(unary.stdout)[0]["message"] == "Hello Ada"
    down = curl(greeter, "CountDown", {"from": 3}, reflect=reflect)
    assert [document["number"] for document in documents(down.stdout)] == [3, 2, 1], down.stderr
    everybody = curl(greeter, "GreetAll", {"name": "Ada"}, {"name": "Grace"}, reflect=reflect)
    assert documents(everybody.stdout)[0]["message"] == "Hello Ada, Grace", everybody.stderr
    chat = curl(greeter, "Chat", {"text": "one"}, {"text": "two"}, reflect=reflect)
    said = [document["text"] for document in documents(chat.stdout)]
    assert said == ["You said: one", "You said: two"], chat.stderr


def test_an_error_arrives_with_its_code_and_text(greeter: str) -> None:
    done = curl(greeter, "SayHello", {}, reflect="grpc-v1")
    assert done.returncode != 0
    assert json.loads(done.stderr) == {"code": "invalid_argument", "message": "name is empty"}
