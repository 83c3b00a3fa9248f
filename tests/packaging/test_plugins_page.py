"""The package that docs/plugins.md makes, and that in examples/plugins: one and the same."""

from __future__ import annotations

from tests.pages import Page
from tests.processes import ROOT

EXAMPLE = ROOT / "examples" / "plugins"


def test_the_example_is_what_the_page_makes() -> None:
    made = {name: text for name, text in Page("docs/plugins.md").files().items() if name != "hello.py"}
    there = {
        str(path.relative_to(EXAMPLE)): path.read_text()
        for pattern in ("*.py", "*.toml")
        for path in EXAMPLE.rglob(pattern)
    }
    assert made == there


def test_the_page_is_short() -> None:
    text = Page("docs/plugins.md").text
    for block in Page("docs/plugins.md").blocks():
        text = text.replace(block.text, "")
    assert len(text.splitlines()) <= 150


def test_an_author_imports_only_what_is_promised() -> None:
    promised = {"pymicro", "pymicro.testing", "pymicro.discovery.registry", "pymicro.discovery.selector"}
    promised.add("pymicro.balancing.balancer")
    imported = {
        line.split()[1]
        for path in EXAMPLE.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from pymicro", "import pymicro"))
    }
    assert imported == promised
