"""The files that `pymicro gen` makes, compared with the existing ones."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pymicro.base.printable import excerpt
from pymicro.cli.gen_sources import Sources, module_of, shown
from pymicro.cli.report import InputError

__all__ = ["INIT", "Output", "check_names", "in_package", "with_packages"]

# Regular packages, because type checkers do not find modules in others, but open ones: there
# may be several of one name, from different services.
INIT = """\
# Made by `pymicro gen`. It may be edited: it is written only where there is none.
# Other folders on sys.path may have more of this package.
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
"""

# The lines in which protoc and grpc's plug-in write their versions.
_VERSION = re.compile(r"^(?:# Protobuf Python Version: |GRPC_GENERATED_VERSION = ')([\w.]+)", re.MULTILINE)
_SOURCE = re.compile(rb"^# source: (.+)$", re.MULTILINE)
_TAKEN = ("grpc", "pymicro")
_KINDS = (".py", ".pyi", "_grpc.py", "_grpc.pyi")


def in_package(out: Path) -> bool:
    """Whether the output folder is a package, or will be one because it lies in one."""
    return (out / "__init__.py").exists() or (out.parent / "__init__.py").exists()


def check_names(files: Collection[Path], out: Path) -> None:
    """Check that no package in a folder on sys.path hides one that Python needs, or a module of these files.

    Raises:
        InputError: A package would hide one.
    """
    tops = sorted({path.relative_to(out).parts[0] for path in files if out in path.parent.parents})
    for top in tops if not in_package(out) else ():
        if top in _TAKEN or top in sys.stdlib_module_names:
            raise InputError(
                f"the package {shown(out / top)} would hide the module {excerpt(top)}, which Python programs "
                "need: give an --out that has an __init__.py, and import it from there"
            )
    for path in files:
        folder = path.with_suffix("")
        if path.suffix == ".py" and (folder / "__init__.py" in files or (folder / "__init__.py").exists()):
            raise InputError(
                f"the folder {shown(folder)} hides {shown(path)}: Python imports a folder that has an "
                "__init__.py before a file of the same name. Rename one of the two"
            )


def with_packages(texts: Mapping[str, str], out: Path) -> dict[Path, str]:
    """The files of `texts`, and an `__init__.py` for each folder without one."""
    files = {out / name: text for name, text in texts.items()}
    folders = {folder for path in files for folder in path.parents if out in folder.parents}
    if in_package(out):
        folders.add(out)
    for folder in folders:
        init = folder / "__init__.py"
        if not init.exists():
            files[init] = INIT
    return dict(sorted(files.items()))


@dataclass(frozen=True)
class Output:
    """What to write.

    Attributes:
        files: All files by path, `changed` and unchanged.
        changed: The files that are missing or differ.
        stale: Files of earlier runs that no proto produces any more.
    """

    files: dict[Path, str]
    changed: tuple[Path, ...]
    stale: tuple[Path, ...]

    @classmethod
    def plan(cls, files: dict[Path, str], sources: Sources, out: Path) -> Output:
        """Compare `files` with the existing ones."""
        changed = tuple(path for path, text in files.items() if _differs(path, text))
        return cls(files, changed, tuple(sorted(_stale(files, sources, out))))

    def other_versions(self) -> tuple[str, str] | None:
        """The version of the tools that made the existing files, and the present one, if they differ."""
        for path in self.changed:
            found = _VERSION.search(self.files[path])
            there = _VERSION.search(path.read_text(errors="replace")) if found and path.is_file() else None
            if found and there and found[1] != there[1]:
                return there[1], found[1]
        return None

    def write(self) -> None:
        """Write all changed files: each first beside the file it replaces, then in its place.

        Raises:
            InputError: A file cannot be written; then none was, unless the machine
                failed in between.
        """
        folders: list[Path] = []
        staged: dict[Path, Path] = {}
        at = Path()
        try:
            for at in self.changed:
                folders += _make_folders(at.parent)
                if at.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                beside = at.with_name(f".{at.name}.{os.getpid()}")
                staged[beside] = at
                beside.write_text(self.files[at], encoding="utf-8", newline="\n")
            for beside, at in staged.items():
                os.replace(beside, at)
            folders.clear()
        except OSError as exc:
            raise InputError(f"cannot write {shown(at)}: {exc.strerror}") from exc
        finally:
            for beside in staged:
                beside.unlink(missing_ok=True)
            for folder in reversed(folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder; return the folders that had to be made, the uppermost first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except OSError:
        return True


def _stale(files: Mapping[Path, str], sources: Sources, out: Path) -> Iterator[Path]:
    """Generated files that are not in `files`, in the packages of `files`."""
    tops = {path.relative_to(out).parts[0] for path in files}
    folders = [out / top for top in tops if (out / top).is_dir()]
    found = {path for folder in folders for path in folder.rglob("*_pb2.py")}
    if any(path.parent == out for path in files):
        found.update(out.glob("*_pb2.py"))
    for path in found:
        name = _source_of(path)
        # Skip a file unless its path is the one that we would give to its proto.
        if name is None or out / f"{module_of(name).replace('.', '/')}.py" != path:
            continue
        if path in files or sources.find(name) is None:
            siblings = (path.with_name(path.name.removesuffix(".py") + kind) for kind in _KINDS)
            yield from (sibling for sibling in siblings if sibling not in files and sibling.exists())


def _source_of(path: Path) -> str | None:
    """The name of the proto from which protoc made a file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        found = _SOURCE.search(file.read(1000))
        return found[1].decode(errors="replace") if found else None
    return None
