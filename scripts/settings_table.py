"""The README's table of settings, made from `pymicro.config`; `--write` puts it there.

A test holds the README to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pymicro.config import Setting, settings

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- settings: written by `make readme` -->\n"
END = "<!-- end of settings -->\n"

# Defaults that are worked out, where the value on this machine would mislead.
WORKED_OUT = {"handler_threads": "min(32, cores + 4)"}


def row(setting: Setting) -> str:
    """One line of the table."""
    default = WORKED_OUT.get(setting.name) or setting.kind.show(setting.default)
    return f"| `{setting.name}` | {f'`{default}`' if default else ''} | {setting.help} |\n"


def table() -> str:
    """All settings that do something, in the order of `Config`."""
    rows = [row(setting) for setting in settings().values() if not setting.ignored]
    return "".join(["| setting | default | what it is |\n", "|---|---|---|\n", *rows])


def with_table(readme: str) -> str:
    """The text of the README with the table as it should be."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the line {BEGIN!r} or {END!r}")
    return f"{head}{begin}{table()}{end}{tail}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(with_table(README.read_text()))
    else:
        print(table(), end="")
