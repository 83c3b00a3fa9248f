"""scripts/last-release: which release it takes, and what it says where there is none to take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, clean_environment

NAME = f"{sys.platform}-{sys.version_info[0]}.{sys.version_info[1]}"


def git(folder: Path, *argv: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *argv],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def last_release(folder: Path) -> subprocess.CompletedProcess[str]:
    env = clean_environment(PYTHON=sys.executable, XDG_CACHE_HOME=str(folder / "cache"))
    # No repository around the temporary folder counts.
    env["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    return subprocess.run(
        [folder / "scripts" / "last-release"], env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout's scripts, without any history."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def checkout(folder: Path) -> Path:
    """The same with one commit, which is not that of any release."""
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    return folder


def made(checkout: Path, commit: str) -> str:
    """Pretend that this release was installed before; its Python."""
    release = checkout / "cache" / "pymicro" / f"release-{commit}-{NAME}"
    release.mkdir(parents=True)
    (release / "made").touch()
    return f"{release}/venv/bin/python\n"


def test_a_clone_without_the_commit_says_how_to_get_it(checkout: Path) -> None:
    done = last_release(checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "which this clone does not have" in done.stderr
    assert "git fetch --unshallow --tags" in done.stderr


def test_without_git_s_history_it_says_what_is_missing(folder: Path) -> None:
    done = last_release(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs git's history" in done.stderr


def test_the_newest_tag_below_this_commit_is_taken(checkout: Path) -> None:
    for version in ("v0.9.0", "v0.10.0", "v0.11.0"):
        git(checkout, "commit", "--quiet", "--allow-empty", "--message", version)
        git(checkout, "tag", version)
    # The commit of v0.11.0 itself is compared with the release before it.
    python = made(checkout, git(checkout, "rev-parse", "v0.10.0^{commit}"))
    assert last_release(checkout).stdout == python
