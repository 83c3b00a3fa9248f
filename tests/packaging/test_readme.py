"""What the README says runs as pasted, from the built wheel, in a directory of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.pages import README
from tests.processes import ROOT, Processes
from tests.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path, wheel_python: Path, processes: Processes) -> Terminal:
    """An empty directory with the README's files in it."""
    folder = tmp_path / "hello"
    folder.mkdir()
    README.write_files(folder)
    return Terminal(folder, wheel_python, processes)


def test_the_readme_has_the_files_that_it_speaks_of() -> None:
    assert set(README.files()) == {
        "protos/greeter/v1/greeter.proto",
        "server.py",
        "client.py",
        "test_greeter.py",
    }


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.text.splitlines()) < 250


def test_the_readme_lists_every_page_of_the_documentation() -> None:
    _, _, listed = README.text.partition("## The documentation\n")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f"](docs/{page}) | " not in listed} == set()


def test_the_server_and_the_client_run_as_pasted(terminal: Terminal) -> None:
    *_, printed = terminal.paste(README, "python client.py")
    assert printed == ["Hello Ada"]


def test_the_commands_run_as_pasted(terminal: Terminal) -> None:
    terminal.run(README.console("python client.py")[0].line)  # generates the code
    nodes, reply = terminal.paste(README, "nodes greeter")
    assert any("127.0.0.1:" in line for line in nodes)
    assert json.loads("".join(reply)) == {"message": "Hello Ada"}


def test_the_test_runs_as_pasted(terminal: Terminal) -> None:
    terminal.run(README.console("python client.py")[0].line)  # generates the code
    terminal.run("python -m pip install --quiet pytest pytest-asyncio")
    printed = terminal.run("python -m pytest -q -o asyncio_mode=auto test_greeter.py")
    assert printed[-1].startswith("1 passed")


def test_the_manifest_is_made_as_pasted(terminal: Terminal) -> None:
    terminal.run(README.console("python client.py")[0].line)  # generates the code
    make, apply = README.console("pymicro manifest")
    assert apply.line == "kubectl apply -f greeter.yaml"
    terminal.run(make.line)
    objects = [*yaml.safe_load_all((terminal.folder / "greeter.yaml").read_text())]
    (deployment,) = [found for found in objects if found["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/greeter:1.0"
    assert {"name": "MICRO_REGISTRY", "value": "kubernetes"} in container["env"]
