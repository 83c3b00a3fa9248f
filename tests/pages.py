"""Code blocks of Markdown pages, for the tests that run them as a reader would paste them.

A block whose first line is a comment with a file's name is that file. Lines of a
`console` block after `$ ` are commands, the others what the command above them prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|//) (\S+\.\w+)\n")


@dataclass
class Command:
    """One line after a `$`, and what the page says that it prints."""

    line: str
    background: bool
    output: list[str] = field(default_factory=list)

    def printed(self, lines: Sequence[str]) -> bool:
        """Whether these lines are what the page shows; `…` is any text, alone on a line any lines.

        Empty lines count for nothing.
        """
        pattern = "".join(
            r"(?:.*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r" *\n"
            for line in self.output
        )
        return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines if line.strip())) is not None


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        file: The file that it is; empty if none.
    """

    language: str
    text: str

    @property
    def file(self) -> str:
        named = FILE_NAME.match(self.text) if self.language != "console" else None
        return named[1] if named else ""

    @property
    def commands(self) -> list[Command]:
        found: list[Command] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                text = line.removeprefix("$ ").partition("  # ")[0].rstrip()
                found.append(Command(text.removesuffix(" &"), text.endswith(" &")))
            elif line:
                found[-1].output.append(line)
        return found


class Page:
    """A page by its path in the checkout."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()

    def blocks(self, *languages: str) -> Iterator[Block]:
        """Its blocks in their order, of these languages or of all."""
        for language, body in BLOCK.findall(self.text):
            if not languages or language in languages:
                yield Block(language, body)

    def files(self) -> dict[str, str]:
        """Blocks whose first line names a file, by that name."""
        return {block.file: block.text for block in self.blocks() if block.file}

    def write_files(self, folder: Path) -> None:
        """Save every named block where it belongs under `folder`."""
        for name, body in self.files().items():
            write(folder / name, body)

    def console(self, containing: str) -> list[Command]:
        """The commands of the first console block in which `containing` stands."""
        return next(block.commands for block in self.blocks("console") if containing in block.text)


def write(path: Path, text: str) -> None:
    """Save a file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


README = Page("README.md")
HANDLERS = Page("docs/handlers.md")
