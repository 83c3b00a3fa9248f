"""The site: every link of a page leads somewhere on it; `make docs` builds it, and is strict."""

from __future__ import annotations

from pathlib import Path

import pytest

import pymicro
from scripts.site import DeadLink, Site, reference, settings
from tests.processes import ROOT

README = "# A\n\n| page | what |\n|---|---|\n| [How `it` goes](docs/how.md) | it |\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "README.md": README,
        "docs/how.md": "# How\n\nSee [the start](../README.md#a), [this](#how).\n",
        "deploy/a/one.yaml": "kind: A\n",
        "deploy/a/two.txt": "```\nshown\n```\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def written(checkout: Path) -> dict[str, str]:
    pages = checkout / "site"
    Site(checkout, pages).write()
    return {str(path.relative_to(pages)): path.read_text() for path in pages.rglob("*.md")}


def test_links_lead_to_where_pages_are_on_the_site(checkout: Path) -> None:
    pages = written(checkout)
    assert set(pages) == {"index.md", "how.md"}
    assert "](how.md)" in pages["index.md"]
    assert "[the start](index.md#a), [this](#how)" in pages["how.md"]


def test_what_is_no_page_is_shown_on_one(checkout: Path) -> None:
    (checkout / "docs/how.md").write_text("# How\n\n[all](../deploy/a) and [one](../deploy/a/one.yaml)\n")
    pages = written(checkout)
    assert "[all](files/deploy/a.md) and [one](files/deploy/a/one.yaml.md)" in pages["how.md"]
    assert pages["files/deploy/a/one.yaml.md"] == "# deploy/a/one.yaml\n\n```yaml\nkind: A\n```\n"
    assert "## two.txt\n\n````text\n```\nshown\n```\n````\n" in pages["files/deploy/a.md"]


@pytest.mark.parametrize("target", ["nowhere.md", "../deploy/b", "../../outside"])
def test_a_link_that_leads_nowhere_is_an_error(checkout: Path, target: str) -> None:
    (checkout / "docs/how.md").write_text(f"# How\n\n[it]({target})\n")
    with pytest.raises(DeadLink, match=r"docs/how\.md: there is no "):
        written(checkout)


def test_pictures_are_where_a_browser_looks_for_them(checkout: Path) -> None:
    (checkout / "docs/a.png").write_bytes(b"it")
    picture = '<source srcset="{0}a.png"><img src="{0}a.png">\n'
    (checkout / "docs/how.md").write_text("![](a.png)\n" + picture.format(""))
    (checkout / "README.md").write_text(picture.format("docs/"))
    pages = written(checkout)
    assert (checkout / "site/pictures/a.png").read_bytes() == b"it"
    assert pages["how.md"] == "![](pictures/a.png)\n" + picture.format("../pictures/")
    assert pages["index.md"] == picture.format("pictures/")


def test_code_is_left_as_it_is(checkout: Path) -> None:
    code = "```text\n[it](nowhere.md)\n```\n"
    (checkout / "docs/how.md").write_text(code)
    assert written(checkout)["how.md"] == code


def test_every_page_of_docs_is_in_the_readmes_table_and_so_in_the_sites() -> None:
    shown = settings((ROOT / "README.md").read_text())
    for page in (ROOT / "docs").glob("*.md"):
        assert f'= "{page.name}"' in shown, page


def test_the_reference_has_what_is_promised_and_nothing_else() -> None:
    page = reference(pymicro)
    for name in pymicro.__all__:
        assert f".{name}\n" in page or name.startswith("__"), name
    assert '"in_flight"' not in page
    members = next(line for line in page.split("::: ") if line.startswith("pymicro.service.Service\n"))
    assert '"add"' in members
    assert '"recorder"' not in members
