"""`debug_errors`: a developer who calls from the same machine is told what an internal error is."""

from __future__ import annotations

import signal

import pytest

from pymicro.serving.call.told import is_of_this_machine
from tests.cli_support import Commands, next_line

BROKEN = """
import sys
sys.path.append({examples!r})
from greeter.v1 import greeter_pb2 as pb
from pymicro import Service, handler

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return self.look_up(request.name)

    def look_up(self, name):
        raise KeyError("no \\x1b[2J " + name)

service = Service("greeter")
service.add(Greeter(), pb, partial=True)
"""


@pytest.fixture
def program(pymicro: Commands) -> str:
    from tests.processes import ROOT

    path = pymicro.cwd / "broken.py"
    path.write_text(BROKEN.format(examples=str(ROOT / "examples/greeter")))
    return str(path)


async def _called(pymicro: Commands, program: str, *flags: str) -> list[str]:
    async with pymicro.started("run", program, *flags) as process:
        while ", registered" not in await next_line(process.stderr):
            pass
        result = await pymicro("call", "greeter", "SayHello", '{"name": "Ada"}')
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert (result.code, result.out) == (64 + 13, "")
    return result.err.splitlines()


async def test_an_internal_error_is_an_id_by_default(pymicro: Commands, program: str) -> None:
    (line,) = await _called(pymicro, program)
    assert line.startswith("INTERNAL: internal error, id ")
    assert len(line) == len("INTERNAL: internal error, id 01234567")


async def test_with_the_setting_it_is_told_in_full(pymicro: Commands, program: str) -> None:
    line, *below = await _called(pymicro, program, "--debug-errors=on")
    assert line.startswith("INTERNAL: internal error, id ")
    assert line.endswith(": KeyError: 'no \\x1b[2J Ada'")
    assert below[0] == "  Traceback (most recent call last):"
    assert [part.rpartition(" in ")[2] for part in below if part.startswith("    File ")] == [
        "say_hello",
        "look_up",
    ]


async def test_a_pod_refuses_it(pymicro: Commands, program: str) -> None:
    argv = ("run", program, "--debug-errors=on", "--server-address=127.0.0.1:0", "--admin-address=off")
    result = await pymicro(*argv, KUBERNETES_SERVICE_HOST="10.0.0.1", MICRO_REGISTRY="local")
    assert result.code == 2
    assert (
        "debug_errors=on is refused in a pod of Kubernetes: whoever calls through a forwarded" in result.err
    )


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv4:127.8.8.8:4711", True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("unix:/tmp/a", True),
        ("unix:", True),
        ("ipv4:10.0.0.7:4711", False),
        ("ipv6:[2001:db8::1]:4711", False),
        ("ipv6:[fe80::1%25eth0]:4711", False),
        ("ipv4:localhost:4711", False),
        ("127.0.0.1:4711", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_only_callers_on_this_machine_are_told(peer: str, told: bool) -> None:
    assert is_of_this_machine(peer) is told
