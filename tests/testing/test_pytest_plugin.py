"""The fixture, in a pytest of its own, as users have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, clean_environment

TESTS = """
import asyncio
import contextlib

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Service, handler

tasks = []


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply(message=f"Hello {request.name}")


@contextlib.asynccontextmanager
async def lifespan():
    tasks.append(asyncio.current_task())
    yield
    tasks.append(asyncio.current_task())


service = Service("greeter", lifespan=lifespan)
service.add(Greeter(), pb, partial=True)


@pytest.mark.parametrize("name", ["Ada", "Grace"])
async def test_hello(pymicro_services, name):
    services = await pymicro_services(service, client_retries=0)
    stub = rpc.GreeterStub(services.channel("greeter"))
    assert (await stub.SayHello(pb.HelloRequest(name=name))).message == f"Hello {name}"


def test_each_life_was_left_in_its_own_task():
    assert len(tasks) == 4
    assert tasks[0] is tasks[1] and tasks[2] is tasks[3]


async def test_what_cannot_start_is_told(pymicro_services):
    broken = Service("broken", on_start=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await pymicro_services(broken)
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixture_is_there_wherever_pymicro_is(tmp_path: Path, mode: str) -> None:
    text = (
        TESTS if mode == "auto" else TESTS.replace("async def test_", "@pytest.mark.asyncio\nasync def test_")
    )
    (tmp_path / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--asyncio-mode={mode}"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT / "examples" / "greeter")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_plug_in_costs_a_pytest_that_does_not_use_it_nothing() -> None:
    code = "import sys, pymicro.testing.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pymicro.testing.plugin" in loaded
    assert not loaded & {"grpc", "pymicro.service", "pymicro.testing.services"}


IMPORT = "from pymicro.testing import running"
SCOPES = """

@pytest.mark.asyncio(loop_scope="{scope}")
async def test_in_that_loop(pymicro_services):
    services = await pymicro_services(service)
    stub = rpc.GreeterStub(services.channel("greeter"))
    assert (await stub.SayHello(pb.HelloRequest(name="Ada"))).message == "Hello Ada"


@pytest.mark.asyncio(loop_scope="{scope}")
async def test_the_service_can_be_started_again():
    async with running(service) as services:
        stub = rpc.GreeterStub(services.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest(name="Eve"))).message == "Hello Eve"
"""


@pytest.mark.parametrize(
    ("scope", "fixtures"),
    [
        ("function", "function"),
        ("module", "module"),
        ("session", "session"),
        ("module", "function"),
        ("function", "session"),
        ("session", "module"),
    ],
)
def test_whatever_the_scopes_of_loops_it_works_or_says_so_at_once(
    tmp_path: Path, scope: str, fixtures: str
) -> None:
    text = TESTS[: TESTS.index("@pytest.mark.parametrize")] + SCOPES.format(scope=scope)
    (tmp_path / "test_it.py").write_text(text.replace("Service, handler", "Service, handler\n" + IMPORT))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--asyncio-mode=auto"),
            *("-o", f"asyncio_default_fixture_loop_scope={fixtures}"),
        ],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT / "examples" / "greeter")),
        capture_output=True,
        text=True,
        check=False,
    )
    if scope == fixtures:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 passed" in done.stdout
    else:
        # The one that cannot work is told why, and leaves nothing that disturbs the next.
        assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
        assert "set asyncio_default_fixture_loop_scope to the same" in done.stdout
        assert "is running already" not in done.stdout
