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


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_pasted(name: str, tmp_path: Path, wheel_python: Path, processes: Processes) -> None:
    terminal = Terminal(tmp_path / "work", wheel_python, processes)
    terminal.folder.mkdir()
    for block in Page(f"docs/{name}").blocks():
        assert block.language in LANGUAGES, block
        if block.file:
            write(terminal.folder / block.file, block.text)
        elif block.language == "console":
            terminal.follow(block.commands)
        else:
            assert block.language == "text", f"a block that nobody runs: name its file\n{block.text}"
