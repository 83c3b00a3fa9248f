"""`pymicro new`: what it makes, and the names that it refuses; tests/packaging runs what it made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cli_support import Commands
from tests.processes import ROOT, clean_environment


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def ruff(folder: Path, *argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *argv],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


async def test_it_makes_a_project_and_says_what_to_do_next(pymicro: Commands) -> None:
    result = await pymicro("new", "my-shop")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "my-shop/ is a project with a service, its client and its tests:"
    assert lines[-3] == ""
    assert lines[-2] == "  cd my-shop && make test"
    assert lines[-1] == "  make run"
    project = pymicro.cwd / "my-shop"
    # Besides, where this pymicro was installed from, if that was no index.
    assert files(project) - {"local.mk"} == {
        ".dockerignore",
        ".github/workflows/check.yml",
        ".gitignore",
        "Dockerfile",
        "Makefile",
        "README.md",
        "my_shop/__init__.py",
        "my_shop/client.py",
        "my_shop/server.py",
        "protos/my_shop/v1/my_shop.proto",
        "pyproject.toml",
        "tests/test_my_shop.py",
    }
    # Each file that is named is there, and nothing else was left beside the project.
    for name in re.findall(r"^  (\S+\.\w+)  ", result.out, re.MULTILINE):
        assert (project / name).is_file(), name
    assert [path.name for path in pymicro.cwd.iterdir()] == ["my-shop"]


async def test_no_placeholder_is_left_and_the_configuration_can_be_read(pymicro: Commands) -> None:
    assert (await pymicro("new", "my-shop")).code == 0
    project = pymicro.cwd / "my-shop"
    for name in files(project):
        assert not re.search(r"\{\{\w+\}\}", (project / name).read_text()), name
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    assert settings["project"]["name"] == "my-shop"
    assert yaml.safe_load((project / ".github/workflows/check.yml").read_text())["jobs"]
    assert 'Service("my-shop"' in (project / "my_shop/server.py").read_text()
    assert "service MyShop {" in (project / "protos/my_shop/v1/my_shop.proto").read_text()


async def test_its_image_and_its_ci_have_the_python_of_our_own_image(pymicro: Commands) -> None:
    assert (await pymicro("new", "my-shop")).code == 0
    project = pymicro.cwd / "my-shop"
    ours, its = ((folder / "Dockerfile").read_text() for folder in (ROOT, project))
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", ours, re.MULTILINE)
    assert f"\nARG PYTHON={python}\n" in its
    for dockerfile in (ours, its):  # what is exposed is what it listens on
        (port,) = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
        assert f"MICRO_SERVER_ADDRESS=0.0.0.0:{port}\n" in dockerfile
    assert f'python-version: "{python}"' in (project / ".github/workflows/check.yml").read_text()


@pytest.mark.parametrize("name", ["a", "shop", "a-very_long-name-of-30-letters"])
async def test_the_code_is_as_ruff_would_write_it(pymicro: Commands, name: str) -> None:
    assert (await pymicro("new", name)).code == 0
    ruff(pymicro.cwd / name, "check", ".")
    ruff(pymicro.cwd / name, "format", "--check", "--diff", ".")


async def test_an_empty_folder_of_that_name_is_filled(pymicro: Commands) -> None:
    (pymicro.cwd / "shop").mkdir()
    assert (await pymicro("new", "shop")).code == 0
    assert (pymicro.cwd / "shop/Makefile").is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Shop", "'Shop' is no name for a service: it has lower-case letters"),
        ("2shop", "begins with a letter"),
        ("shop-", "ends with a letter or a digit"),
        ("my shop", "is no name"),
        ("../shop", "is no name"),
        ("a" * 31, "has 31 letters; it may have 30"),
        ("import", "'import' is a word of Python's"),
        ("match", "'match' is a word of Python's"),
        ("calendar", "the package 'calendar' would hide another of that name"),
        ("pymicro", "would hide another"),
        ("pymicro-grpc", "would hide another"),
        ("tests", "would hide another"),
        ("click", "would hide another"),
        ("hello-request", "'hello-request' is a message of the proto"),
        ("file", "file is a file: choose another name"),
        ("full", "full is a folder that has files in it: choose another name"),
        ("pipe", "pipe is a file: choose another name"),
        ("link", "link is a file: choose another name"),
    ],
)
async def test_a_name_that_cannot_be_is_one_message(pymicro: Commands, name: str, words: str) -> None:
    (pymicro.cwd / "file").write_text("")
    (pymicro.cwd / "full").mkdir()
    (pymicro.cwd / "full/file").write_text("")
    os.mkfifo(pymicro.cwd / "pipe")
    (pymicro.cwd / "link").symlink_to("nothing")
    before = files(pymicro.cwd)
    result = await pymicro("new", name)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("pymicro new: ")
    assert words in result.err
    assert files(pymicro.cwd) == before
