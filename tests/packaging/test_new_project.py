"""What `pymicro new` makes, on a machine that has only the wheel: its two commands run as printed."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import Process, Processes

# A virtual environment, everything that a project needs in it: most of a minute.
pytestmark = pytest.mark.once

INSTALL = 300  # seconds, on a slow line


class Shell:
    """A shell in which `pymicro` is the installed wheel's and `python3` the tests' own."""

    def __init__(self, cwd: Path, python: Path, processes: Processes, tmp_path: Path) -> None:
        self.cwd = cwd
        self.processes = processes
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "pymicro").symlink_to(python.with_name("pymicro"))
        (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / "python3").chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        processes.environment = {**processes.environment, "PATH": path}

    def start(self, line: str) -> Process:
        return self.processes.start("bash", "-c", f"exec {line}", cwd=self.cwd)

    def run(self, line: str, timeout: float = 60) -> list[str]:
        """Run a line; what it printed. It must succeed."""
        process = self.processes.start("bash", "-ec", line, cwd=self.cwd)
        assert process.wait(timeout) == 0, process.report()
        return process.stdout


def test_a_new_project_tests_itself_and_runs(
    wheel_python: Path, processes: Processes, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, wheel_python, processes, tmp_path)
    *_, test, run = (line.strip() for line in shell.run("pymicro new my-shop"))

    assert "3 passed" in shell.run(test, INSTALL)[-1]
    shell.cwd = tmp_path / "my-shop"
    service = shell.start(run)
    service.wait_for(r"my-shop 0\.1\.0 .*127\.0\.0\.1:\d+")
    assert shell.run("make client")[-4:] == ["Hello Ada", "1", "2", "3"]
    call = """.venv/bin/pymicro call my-shop MyShop.Hello '{"name": "Grace"}'"""
    assert json.loads("".join(shell.run(call))) == {"message": "Hello Grace"}
    service.stop()  # make passes the signal on, and ends with it itself
    assert not service.running

    shell.run("make lint types")
    shell.run("make manifest IMAGE=example.com/my-shop:0.1.0")
    manifest = (shell.cwd / "deploy/my-shop.yaml").read_text()
    assert "image: example.com/my-shop:0.1.0\n" in manifest
    assert "my_shop.server" in manifest

    # What the image gets: the code of the protos, though git ignores it.
    shell.run(".venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .")
    (built,) = (shell.cwd / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert {"my_shop/server.py", "my_shop/v1/my_shop_pb2.py", "my_shop/v1/my_shop_pb2_grpc.pyi"} <= set(names)

    shell.run("make clean")
    assert not [path for path in shell.cwd.rglob("*") if "_pb2" in path.name or path.name == ".venv"]
