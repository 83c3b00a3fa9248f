"""grpcurl, a client by other people in another language, against the greeter.

Run by `make test-peers`, which builds it.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.processes import Processes

pytestmark = pytest.mark.peers


@pytest.fixture
def greeter(processes: Processes) -> str:
    """The address of a running greeter."""
    server = processes.pymicro("run", "examples/greeter/server.py")
    return server.wait_for(r"greeter.*?(127\.0\.0\.1:\d+)")[1]


def grpcurl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run it without TLS; a missing grpcurl is a failure, not a skipped test."""
    program = os.environ.get("GRPCURL", "grpcurl")
    return subprocess.run(
        [program, "-plaintext", "-max-time", "20", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_grpcurl_lists_the_services(greeter: str) -> None:
    done = grpcurl(greeter, "list")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "greeter.v1.Greeter",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


def test_grpcurl_lists_the_methods_of_a_service(greeter: str) -> None:
    done = grpcurl(greeter, "list", "greeter.v1.Greeter")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        f"greeter.v1.Greeter.{method}" for method in ("Chat", "CountDown", "GreetAll", "SayHello")
    ]


def test_a_bare_describe_describes_everything(greeter: str) -> None:
    # It asks for each service listed, so reflection must know its own descriptors too.
    done = grpcurl(greeter, "describe")
    assert done.returncode == 0, done.stderr
    assert "greeter.v1.Greeter is a service" in done.stdout
    assert "grpc.reflection.v1.ServerReflection is a service" in done.stdout
    assert "grpc.reflection.v1alpha.ServerReflection is a service" in done.stdout
    assert "grpc.health.v1.Health is a service" in done.stdout


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("greeter.v1.Greeter", "rpc CountDown ( .greeter.v1.CountDownRequest ) returns ( stream"),
        ("greeter.v1.Greeter.Chat", "rpc Chat ( stream .greeter.v1.ChatMessage )"),
        ("greeter.v1.HelloReply", "int64 pid = 3;"),
    ],
)
def test_describe_with_a_symbol_shows_it(greeter: str, symbol: str, expected: str) -> None:
    done = grpcurl(greeter, "describe", symbol)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_describing_an_unknown_symbol_fails(greeter: str) -> None:
    done = grpcurl(greeter, "describe", "greeter.v1.Nobody")
    assert done.returncode != 0
    assert "greeter.v1.Nobody" in done.stderr


def test_a_unary_call(greeter: str) -> None:
    done = grpcurl("-d", '{"name": "Ada"}', greeter, "greeter.v1.Greeter/SayHello")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["message"] == "Hello Ada"
    assert reply["address"] == greeter


def test_a_streamed_answer(greeter: str) -> None:
    done = grpcurl("-d", '{"from": 3}', greeter, "greeter.v1.Greeter/CountDown")
    assert done.returncode == 0, done.stderr
    numbers = json.loads(f"[{done.stdout.replace('}', '},').rstrip().rstrip(',')}]")
    assert [number["number"] for number in numbers] == [3, 2, 1]


def test_a_streamed_request(greeter: str) -> None:
    done = grpcurl(
        "-d", "@", greeter, "greeter.v1.Greeter/GreetAll", stdin='{"name": "Ada"}\n{"name": "Grace"}\n'
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["message"] == "Hello Ada, Grace"


def test_a_stream_both_ways(greeter: str) -> None:
    done = grpcurl("-d", "@", greeter, "greeter.v1.Greeter/Chat", stdin='{"text": "one"}\n{"text": "two"}\n')
    assert done.returncode == 0, done.stderr
    assert "You said: one" in done.stdout
    assert "You said: two" in done.stdout


def test_an_error_arrives_with_its_code_and_text(greeter: str) -> None:
    done = grpcurl("-d", "{}", greeter, "greeter.v1.Greeter/SayHello")
    assert done.returncode == 64 + 3
    assert "InvalidArgument" in done.stderr
    assert "name is empty" in done.stderr


def test_the_health_service_answers(greeter: str) -> None:
    done = grpcurl(greeter, "grpc.health.v1.Health/Check")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"status": "SERVING"}
