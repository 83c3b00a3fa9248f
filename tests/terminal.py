"""Where a reader pastes a page's lines: a directory, and `python` is the installed one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from tests.pages import Command, Page
from tests.processes import Process, Processes


class Terminal:
    """A shell, as far as pages need one: `cd` is understood, and `&`."""

    def __init__(self, folder: Path, python: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        processes.environment = {
            **processes.environment,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, line: str) -> Process:
        """Start one line, as with `&`; it may set variables."""
        return self.processes.start("bash", "-c", f"exec env {line}", cwd=self.folder)

    def run(self, line: str) -> list[str]:
        """Run one line to its end; what it printed. It must succeed."""
        # Not `exec`: it takes one command, and this may be several.
        process = self.processes.start("bash", "-c", line, cwd=self.folder)
        code = process.wait(120)
        assert code == 0, process.report()
        return process.stdout

    def follow(self, commands: Iterable[Command]) -> list[list[str]]:
        """Run commands of a page; returns what those in the foreground printed: what the page shows."""
        outputs = []
        for command in commands:
            if command.line.startswith("cd "):
                (target,) = shlex.split(command.line)[1:]
                self.folder = (self.folder / target).resolve(strict=True)
                continue
            if command.background:
                self.start(command.line).wait_for(r"127\.0\.0\.1:\d+")
                continue
            printed = self.run(command.line)
            if command.output:
                assert command.printed(printed), f"{command.line} printed\n" + "\n".join(printed)
            outputs.append(printed)
        return outputs

    def paste(self, page: Page, containing: str) -> list[list[str]]:
        """`follow` a page's console block."""
        return self.follow(page.console(containing))
