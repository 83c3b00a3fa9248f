"""What importing costs: nothing is loaded before it is needed."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from tests.processes import ROOT, clean_environment


@functools.cache
def loaded_by(code: str) -> frozenset[str]:
    """Names of all modules loaded after running `code` in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return frozenset(done.stdout.split())


@pytest.mark.parametrize("absent", ["grpc", "google.protobuf", "asyncio", "kubernetes_asyncio", "click"])
def test_import_pymicro_does_not_load(absent: str) -> None:
    assert absent not in loaded_by("import pymicro")


@pytest.mark.parametrize(
    "absent", ["kubernetes_asyncio", "aiohttp", "click", "google.rpc", "dns", "zeroconf", "pytest"]
)
def test_service_and_client_do_not_load(absent: str) -> None:
    assert absent not in loaded_by("from pymicro import Service, Client")


def test_what_is_said_of_loading_is_measured_on_something() -> None:
    assert {"pymicro.service", "pymicro.client", "grpc.aio"} <= loaded_by(
        "from pymicro import Service, Client"
    )


def test_the_command_line_answers_without_grpc() -> None:
    # Its parent process under `--reload` must never import grpc (one loop per process).
    assert "grpc" not in loaded_by("import pymicro.cli")
