"""gRPC's interop cases between pymicro and grpc-go, both ways, and pymicro with itself.

Run by `make test-peers`, which builds grpc-go's programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop

from pymicro import Client
from tests.interop.cases import CASES, payload, pb, rpc
from tests.processes import ROOT, Processes

pytestmark = pytest.mark.peers


def program(name: str) -> str:
    """One of grpc-go's programs; a missing one is a failure, not a skipped test."""
    folder = os.environ.get("GRPC_GO_INTEROP")
    assert folder, "GRPC_GO_INTEROP is not set: run `make test-peers`"
    return str(Path(folder) / name)


# Our ends of each case: fast if it is built, on both event loops.
TRANSPORTS = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]
FAST_RUNS = [asyncio.run, uvloop.run] if find_spec("pymicro_fast") else []
SERVERS = [("grpc", "auto"), *(("fast", loop) for loop in ("asyncio", "uvloop") if FAST_RUNS)]


@pytest.fixture(params=SERVERS, ids="-".join)
def service(request: pytest.FixtureRequest, processes: Processes) -> str:
    """The address of TestService on pymicro."""
    transport, loop = request.param
    server = processes.pymicro(
        "run",
        "tests/interop/service.py",
        PYTHONPATH=str(ROOT),
        MICRO_TRANSPORT=transport,
        MICRO_LOOP=loop,
    )
    return server.wait_for(r"interop.*?(127\.0\.0\.1:\d+)")[1]


@pytest.fixture
def grpc_go(processes: Processes) -> str:
    """The address of grpc-go's interop server."""
    return processes.start(program("server")).wait_for(r"^(127\.0\.0\.1:\d+)$")[1]


@pytest.mark.parametrize("name", CASES)
def test_grpc_go_calls_pymicro(service: str, name: str) -> None:
    host, _, port = service.rpartition(":")
    done = subprocess.run(
        [program("client"), f"--server_host={host}", f"--server_port={port}", f"--test_case={name}"],
        # Only at this level does it say that a case was done.
        env={**os.environ, "GRPC_GO_LOG_SEVERITY_LEVEL": "info"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\w+ done$", done.stderr, re.MULTILINE), done.stderr


# A channel is fresh in each case, as with other languages' interop clients: in the case with a deadline
# of a millisecond nothing may have been sent when it ends.
async def one_case(name: str, address: str, transport: str) -> None:
    async with Client(
        registry="static", registry_address=f"interop={address}", transport=transport
    ) as client:
        await CASES[name](client.channel("interop"))


@pytest.mark.parametrize("name", CASES)
async def test_pymicro_calls_grpc_go(grpc_go: str, name: str) -> None:
    await one_case(name, grpc_go, "grpc")


@pytest.mark.parametrize("run", FAST_RUNS)
@pytest.mark.parametrize("name", CASES)
def test_pymicro_calls_grpc_go_over_fast(grpc_go: str, name: str, run: Callable[..., None]) -> None:
    run(one_case(name, grpc_go, "fast"))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", CASES)
async def test_pymicro_calls_pymicro(service: str, name: str, transport: str) -> None:
    await one_case(name, service, transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_ends_at_its_deadline_is_deadline_exceeded_whoever_is_faster(
    grpc_go: str, transport: str
) -> None:
    """The same case on a connection that is there: the peer's reset and our deadline race for the end."""
    async with Client(
        registry="static", registry_address=f"interop={grpc_go}", transport=transport
    ) as client:
        channel = client.channel("interop")
        await channel.channel_ready()
        stub = rpc.TestServiceStub(channel)
        codes: Counter[str] = Counter()
        for number in range(400):
            call = stub.FullDuplexCall(timeout=0.0005 * (1 + number % 4))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(pb.StreamingOutputCallRequest(payload=payload(27182)))
                await call.read()
            codes[(await call.code()).name] += 1
        assert codes == {"DEADLINE_EXCEEDED": 400}
