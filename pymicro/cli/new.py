"""`pymicro new`: a project with a service that runs, tests itself and can be deployed."""

from __future__ import annotations

import importlib.machinery
import json
import keyword
import os
import re
import shlex
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from pymicro._version import __version__
from pymicro.base.printable import excerpt
from pymicro.cli.flags import debug_option
from pymicro.cli.report import InputError, say

__all__ = ["new", "project"]

_NAME = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_LONGEST = 30  # some lines of the code contain it three times

# Folders of the project, and packages that its virtual environment surely has.
_TAKEN = ("deploy", "google", "grpc", "mypy", "protos", "pymicro_grpc", "pytest", "ruff", "tests")
# With these names, the service would have the same name as a message of its proto.
_MESSAGES = ("hello_request", "hello_reply", "count_request", "count_reply")

# The project's files, each with `.template` at the end of its name. `{{name}}` and the like are
# filled in, in names and texts. (Braces, because Makefile and Dockerfile use dollars themselves.)
_FILES = Path(__file__).with_name("data") / "project"
# The files that `new` shows, in this order.
_ABOUT = {
    "protos/{{package}}/v1/{{package}}.proto": "what it serves",
    "{{package}}/server.py": "the service",
    "{{package}}/client.py": "a client",
    "tests/test_{{package}}.py": "its tests",
    "Makefile": "what can be done with it: make lists it",
}


@click.command("new")
@click.argument("name")
@debug_option
def new(name: str) -> int:
    """Make a project for the service NAME, in a new folder NAME.

    The project has a proto, a service, a client and tests, a Makefile for everything
    you do with it, a Dockerfile, and a workflow for CI on GitHub.

    NAME is lower-case letters, digits, - and _. Clients find the service under it.
    The Python package is NAME with underscores.
    """
    package = _package(name)
    folder = Path(name)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "is a folder that has files in it" if folder.is_dir() else "is a file"
        raise InputError(f"{name} {what}: choose another name")
    files = project(name, package)
    if source := _source():
        files["local.mk"] = f"PYMICRO ?= {shlex.quote(source).replace('$', '$$')}\n"
    _write(folder, files)
    say(f"{name}/ is a project with a service, its client and its tests:\n")
    shown = {_fill(path, name, package): about for path, about in _ABOUT.items()}
    width = max(map(len, shown))
    for path, about in shown.items():
        say(f"  {path:{width}}  {about}")
    say(f"\nNext:\n\n  cd {name} && make test\n  make run")
    return 0


def project(name: str, package: str) -> dict[str, str]:
    """The files of a project, by path."""
    texts = {
        file.relative_to(_FILES).as_posix().removesuffix(".template"): file.read_text(encoding="utf-8")
        for file in _FILES.rglob("*.template")
    }
    return {_fill(path, name, package): _fill(text, name, package) for path, text in texts.items()}


def _package(name: str) -> str:
    """The name of the project's package.

    Raises:
        InputError: `name` cannot be used; says why.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{excerpt(name)} is no name for a service: it has lower-case letters, digits, - and _, "
            "begins with a letter and ends with a letter or a digit"
        )
    if len(name) > _LONGEST:
        raise InputError(f"{excerpt(name)} has {len(name)} letters; it may have {_LONGEST}")
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise InputError(f"{excerpt(name)} is a word of Python's: a package cannot be called so")
    installed = importlib.machinery.PathFinder.find_spec(
        package, [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    )
    if package == "pymicro" or package in _TAKEN or package in sys.stdlib_module_names or installed:
        raise InputError(
            f"the package {excerpt(package)} would hide another of that name: choose another name"
        )
    if package in _MESSAGES:
        raise InputError(
            f"{excerpt(name)} is a message of the proto that a project begins with: choose another name"
        )
    return package


def _fill(text: str, name: str, package: str) -> str:
    values = {
        "name": name,
        "package": package,
        "Class": "".join(word.capitalize() for word in package.split("_")),
        "version": __version__,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write the whole project elsewhere first, and then rename it."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for path, text in files.items():
            (beside / path).parent.mkdir(parents=True, exist_ok=True)
            (beside / path).write_text(text, encoding="utf-8", newline="\n")
        beside.rename(folder)
    except OSError as exc:
        raise InputError(f"cannot write {folder}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _source() -> str:
    """The place from which pip installed this pymicro, if that was no package index."""
    try:
        text = distribution("pymicro-grpc").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    if not text:
        return ""
    found = json.loads(text)
    url = urlsplit(found["url"])
    if url.scheme == "file":
        path = unquote(url.path)
        return path if os.path.exists(path) else ""
    vcs = found.get("vcs_info")
    return f"{vcs['vcs']}+{found['url']}@{vcs['commit_id']}" if vcs else str(found["url"])
