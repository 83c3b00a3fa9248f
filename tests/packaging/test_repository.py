"""The repository's own papers agree with the code."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

import pymicro
from scripts.papers import MADE, made
from tests.processes import ROOT


@pytest.mark.parametrize("page", MADE)
def test_what_a_page_has_from_the_code_is_the_codes(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text == made(page, text), f"{page} says something else than the code: run `make papers`"


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert first.startswith(f"## {pymicro.__version__}")


def test_every_dependency_has_a_lower_bound() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "lowest.py"], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert len(names) == len(
        {
            *project["dependencies"],
            *(item for extra in project["optional-dependencies"].values() for item in extra),
        }
    )


def test_no_generated_code_is_committed() -> None:
    done = subprocess.run(
        ["git", "ls-files", "*_pb2*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:  # a checkout, not an unpacked sdist
        assert done.stdout == ""
