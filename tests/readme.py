"""The README's code blocks, for the tests that run them as a reader would paste them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|//) (\S+\.\w+)\n")


@dataclass
class Command:
    """One line after a `$`, and what the README says that it prints."""

    line: str
    background: bool
    output: list[str] = field(default_factory=list)


def blocks(language: str) -> list[str]:
    """The texts of all blocks of one language."""
    text = (ROOT / "README.md").read_text()
    return [body for found, body in BLOCK.findall(text) if found == language]


def files() -> dict[str, str]:
    """Blocks whose first line names a file, by that name."""
    named = {}
    for body in blocks("python") + blocks("proto"):
        first = FILE_NAME.match(body)
        if first:
            named[first[1]] = body
    return named


def write_files(folder: Path) -> None:
    """Save every named block where it belongs under `folder`."""
    for name, body in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)


def console(containing: str) -> list[Command]:
    """The commands of the first console block in which `containing` stands."""
    body = next(body for body in blocks("console") if containing in body)
    commands: list[Command] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            text = line.removeprefix("$ ").partition("  # ")[0].rstrip()
            background = text.endswith(" &")
            commands.append(Command(text.removesuffix(" &"), background))
        elif line:
            commands[-1].output.append(line)
    return commands
