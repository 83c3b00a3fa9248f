"""Every link of the documentation into the repository leads somewhere: to a file, and to a heading in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.processes import ROOT

PAPERS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deploy" / "README.md")
)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """What may stand after a `#` in a link to this page, as GitHub makes it of the headings."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 1
        unique = anchor
        while unique in found:
            unique = f"{anchor}-{number}"
            number += 1
        found.add(unique)
    return found


def dead_links(page: Path) -> list[str]:
    """Links of a page into this repository that lead nowhere."""
    text = INLINE_CODE.sub("", FENCED.sub("", page.read_text()))
    dead = []
    for link in (first or second for first, second in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.exists() and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))
        if not there:
            dead.append(link)
    return dead


@pytest.mark.parametrize("paper", PAPERS)
def test_every_link_into_the_repository_leads_somewhere(paper: str) -> None:
    assert dead_links(ROOT / paper) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A page, `code` in its title\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "## Here it is\n\n[a](there.md) [b](there.md#a-page-code-in-its-title) [c](there.md#twice-1)\n"
        "[d](#here-it-is) [e](https://example.com/#x) `[f](gone.md)`\n\n```text\n[g](gone.md)\n```\n"
        "[h](gone.md) [i](there.md#thrice) [j](#nowhere)\n"
    )
    assert dead_links(page) == ["gone.md", "there.md#thrice", "#nowhere"]
