"""Every page of docs/ is followed from its top to its bottom, with the wheel, in a directory of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pymicro
from tests.pages import Page, write
from tests.processes import ROOT, Processes
from tests.terminal import Terminal

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
# `text` is what is only shown: a drawing, a terminal's content.
LANGUAGES = {"python", "proto", "toml", "yaml", "console", "text"}
# The modules that users and authors of plug-ins import.
PUBLIC = (
    "pymicro",
    "pymicro.sync",
    "pymicro.testing",
    "pymicro.discovery.registry",
    "pymicro.discovery.selector",
    "pymicro.balancing.balancer",
)

# They make a project with a virtual environment of its own.
ONCE = {"plugins.md", "tutorial.md"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.once) if name in ONCE else name for name in PAGES]
)
def test_a_page_runs_as_pasted(
    name: str, tmp_path: Path, wheel: Path, wheel_python: Path, processes: Processes
) -> None:
    terminal = Terminal(tmp_path / "work", wheel_python, processes)
    # Where the reader's pip finds a package index with pymicro, ours finds the wheel.
    links = f"{wheel.parent} {processes.environment.get('PIP_FIND_LINKS', '')}"
    processes.environment = {**processes.environment, "PIP_FIND_LINKS": links}
    terminal.folder.mkdir()
    for block in Page(f"docs/{name}").blocks():
        assert block.language in LANGUAGES, block
        if block.file:
            write(terminal.folder / block.file, block.text)
        elif block.language == "console":
            terminal.follow(block.commands)
        else:
            assert block.language == "text", f"a block that nobody runs: name its file\n{block.text}"


def imports(code: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that a program imports, each with the names taken from it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_code_on_pages_imports_what_is_public(path: str) -> None:
    for block in Page(path).blocks("python"):
        for module, names in imports(block.text):
            if module.partition(".")[0] != "pymicro":
                continue
            assert module in PUBLIC or module.startswith("pymicro.testing."), block.file
            if module == "pymicro":
                assert set(names) <= set(pymicro.__all__) | {"testing"}, block.file
