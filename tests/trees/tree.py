"""Whole trees of protos: what `pymicro gen` makes of one, file by file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import clean_environment

_IMPORTS = re.compile(r'^\s*import\s+(?:public\s+|weak\s+|option\s+)?"([^"]+)"', re.MULTILINE)
_ERROR = re.compile(r"^(?P<file>[^:\n]+\.pyi?):\d+: error: ", re.MULTILINE)


@dataclass
class Made:
    """What became of the files of a tree.

    Attributes:
        modules: Python modules that were made.
        refused: What was said of each file that cannot be compiled, by its path.
        following: Files that import one of those.
    """

    modules: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    following: list[str] = field(default_factory=list)


def copied(roots: Sequence[Path], to: Path) -> list[Path]:
    """Copies of folders of protos, in which files may be deleted."""
    copies = []
    for number, root in enumerate(roots):
        copy = to / f"root{number}"
        for path in root.rglob("*.proto"):
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        copies.append(copy)
    return copies


def make(roots: Sequence[Path], out: Path) -> Made:
    """Make the code of all files in `roots`; one that is refused is deleted, and so are those that import it.

    Raises:
        AssertionError: Something was refused without naming a file of the tree.
    """
    made = Made()
    while True:
        argv = [argument for root in roots for argument in ("-I", str(root))]
        done = subprocess.run(
            [sys.executable, "-m", "pymicro", "gen", "-o", str(out), *argv, *map(str, roots)],
            env=clean_environment(),
            cwd=out.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            break
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        refused = _refused(done.stderr, roots, out.parent)
        assert refused, done.stderr
        made.refused.update(refused)
        for path in refused:
            Path(path).unlink()
        made.following += _drop_importers(roots, set(refused))
    made.modules = [
        path.relative_to(out).with_suffix("").as_posix().replace("/", ".")
        for path in sorted(out.rglob("*_pb2*.py"))
    ]
    return made


def _refused(said: str, roots: Sequence[Path], cwd: Path) -> dict[str, str]:
    """The complaints about files, by their paths."""
    found: dict[str, str] = {}
    for line in said.splitlines():
        line = line.removeprefix("pymicro gen: ")
        name, colon, rest = line.partition(":")
        for place in (cwd, *roots):
            path = place / name
            if colon and name.endswith(".proto") and path.is_file():
                found.setdefault(str(path.resolve()), rest.strip())
    return found


def _drop_importers(roots: Sequence[Path], refused: set[str]) -> list[str]:
    """Delete the files that import files that are gone, and those that import these."""
    gone = {_name(path, roots) for path in refused}
    imports = {
        path: set(_IMPORTS.findall(path.read_text(encoding="utf-8", errors="replace")))
        for root in roots
        for path in root.rglob("*.proto")
    }
    dropped = []
    while found := [path for path, names in imports.items() if names & gone]:
        for path in found:
            path.unlink()
            del imports[path]
            gone.add(_name(str(path), roots))
            dropped.append(str(path))
    return dropped


def _name(path: str, roots: Sequence[Path]) -> str:
    root = next(root for root in roots if Path(path).is_relative_to(root.resolve()))
    return Path(path).relative_to(root.resolve()).as_posix()


def failing_imports(out: Path, modules: Sequence[str]) -> list[str]:
    """The modules that Python cannot import, with the reason."""
    code = (
        "import importlib, sys, warnings\n"
        "for name in sys.stdin.read().split():\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as exc:\n"
        "        print(name, type(exc).__name__, str(exc).splitlines()[:1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(modules),
        cwd=out,
        env=clean_environment(PYTHONPATH=str(out), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def mypy_errors(out: Path) -> list[str]:
    """What strict mypy says of the code, its types included."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", "/dev/null", "."],
        cwd=out,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def renamed(root: Path, to: Path) -> None:
    """A copy of Google's protos in which their packages have another name, since gen leaves theirs out.

    Well-known types stay where they are, unless the copy is of these.
    """
    own = sorted({path.relative_to(root).parts[1] for path in root.glob("google/**/*.proto")})
    word = "|".join(own)
    name = re.compile(rf"\bgoogle(?=[./](?:{word})\b)")
    for path in root.glob("google/**/*.proto"):
        target = to / "copied" / path.relative_to(root / "google")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(name.sub("copied", path.read_text(encoding="utf-8")), encoding="utf-8")
