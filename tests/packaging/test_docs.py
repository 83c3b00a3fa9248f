"""Every page of docs/ is followed from its top to its bottom, with the wheel, in a directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import Page, write
from tests.processes import ROOT, Processes
from tests.terminal import Terminal

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
# `text` is what is only shown: a drawing, a terminal's content.
LANGUAGES = {"python", "proto", "toml", "yaml", "console", "text"}


# It makes a project with a virtual environment of its own.
ONCE = {"tutorial.md"}


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
