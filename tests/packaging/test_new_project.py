"""What `pymicro new` makes, on a machine that has only the wheel: its two commands run as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import Processes, clean_environment

# A virtual environment with all that a project needs, twice: most of a minute.
pytestmark = pytest.mark.once


@dataclass(frozen=True)
class Project:
    """A new project after the first command that `pymicro new` prints."""

    folder: Path
    env: dict[str, str]
    tested: str
    run_line: str

    def run(self, line: str) -> str:
        """Run a line in it; what it printed."""
        return shell(line, self.folder, self.env)

    def dockerfile(self, word: str) -> list[str]:
        """What stands after an instruction, each time."""
        lines = (self.folder / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
        return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def shell(line: str, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-ec", line], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(wheel_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "pymicro").symlink_to(wheel_python.with_name("pymicro"))
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    env = clean_environment(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    *_, test, run = shell("pymicro new my-shop", folder, env).splitlines()
    # The wheel is of no package index, so the project names it; the image needs it as well.
    (wheel,) = re.findall(r"PYMICRO \?= (\S+)", (folder / "my-shop/local.mk").read_text())
    tested = shell(test, folder, env)
    return Project(folder / "my-shop", {**env, "PYMICRO": wheel}, tested, run.strip())


def test_it_tests_itself(project: Project) -> None:
    assert "3 passed" in project.tested.splitlines()[-1]


def test_it_runs_and_its_client_finds_it(project: Project, processes: Processes) -> None:
    registry = {"MICRO_REGISTRY_ADDRESS": processes.environment["MICRO_REGISTRY_ADDRESS"]}
    env = {**project.env, **registry}
    service = processes.start("bash", "-c", f"exec {project.run_line}", cwd=project.folder, **env)
    service.wait_for(r"my-shop 0\.1\.0 on 127\.0\.0\.1:\d+")
    assert shell("make client", project.folder, env).splitlines()[-4:] == ["Hello Ada", "1", "2", "3"]
    call = """.venv/bin/pymicro call my-shop MyShop.Hello '{"name": "Grace"}'"""
    assert json.loads(shell(call, project.folder, env)) == {"message": "Hello Grace"}
    service.stop()  # make passes it on, waits, and ends of it too
    assert any("my-shop has stopped" in line for line in service.stderr), service.report()


def test_its_linters_are_content(project: Project) -> None:
    project.run("make lint types")


def test_its_manifests_name_image_and_module(project: Project) -> None:
    project.run("make manifest IMAGE=example.com/my-shop:0.1.0")
    manifest = (project.folder / "deploy/my-shop.yaml").read_text()
    assert "image: example.com/my-shop:0.1.0\n" in manifest
    assert "my_shop.server" in manifest


def test_the_steps_of_its_dockerfile_make_what_runs(
    project: Project, processes: Processes, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    for line in project.dockerfile("RUN"):
        # The Python of the base image is the project's here.
        below = re.sub(r"(?<= )/(?=venv|constraints)", f"{image}/", line)
        project.run(f"export PATH=$PWD/.venv/bin:$PATH; {below.replace('--no-cache-dir', '')}")
    installed = {path.name for path in image.glob("venv/lib/*/site-packages/*")}
    assert {"my_shop", "pymicro", "grpc"} <= installed
    assert not {"pip", "grpc_tools", "pytest"} & installed
    (command,) = project.dockerfile("CMD")
    python, *arguments = json.loads(command)
    service = processes.start(str(image / "venv/bin" / python), *arguments, cwd=image)
    service.wait_for(r"my-shop 0\.1\.0 on 127\.0\.0\.1:\d+")
    assert service.stop() == 0, service.report()


def test_what_was_made_is_removed_again(project: Project, tmp_path: Path) -> None:
    copy = shutil.copytree(project.folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".venv"))
    (copy / ".venv").mkdir()
    assert list(copy.rglob("*_pb2.py"))
    shell("make clean", copy, project.env)
    assert not [path for path in copy.rglob("*") if "_pb2" in path.name or path.name == ".venv"]
