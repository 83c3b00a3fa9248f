"""From the arguments of `pymicro gen` to protos, with the names by which protoc knows them."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from pymicro.base.printable import excerpt
from pymicro.base.suggest import did_you_mean
from pymicro.cli.report import InputError

__all__ = ["Sources", "gather", "module_of", "protos_below", "shown"]

_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)


@dataclass(frozen=True)
class Sources:
    """The protos from which to make code.

    Attributes:
        roots: Folders in which imports are looked up; the first that has a file wins.
        installed: Such folders of installed packages, searched after `roots`.
        files: Each proto by its name, which is its path below one of `roots`.
        left_out: Names of files whose code is installed.
    """

    roots: tuple[Path, ...]
    installed: tuple[Path, ...]
    files: dict[str, Path]
    left_out: tuple[str, ...]

    def find(self, name: str) -> Path | None:
        """The user's own proto of that name."""
        return next((root / name for root in self.roots if (root / name).is_file()), None)

    def has_installed(self, name: str) -> bool:
        """Whether the Python code of that proto is installed."""
        module = module_of(name).replace(".", "/")
        return any((folder / f"{module}.py").is_file() for folder in self.installed)


def gather(paths: Sequence[Path], include: Sequence[Path]) -> Sources:
    """Find the protos in `paths`, files and folders, and the folders where their names begin.

    Args:
        include: Folders where names begin. If there are none: for a folder it is
            this folder, for a file the one above its package's folders.

    Raises:
        InputError: A file does not exist, a folder has no proto, or a name would
            confuse protoc or Python; or grpcio-tools is not installed.
    """
    installed = _installed()
    found = {_absolute(path): _protos_of(path) for path in paths}
    roots = [_absolute(path) for path in include]
    if not roots:
        roots = [_root_of(path, protos) for path, protos in found.items()]
    sources = Sources(tuple(dict.fromkeys(roots)), installed, {}, ())
    left_out = []
    for path in sorted({path for protos in found.values() for path in protos}):
        name = _name_of(path, sources)
        # This is a copy of an installed proto: a second google/ would hide the first.
        if name.startswith("google/") and sources.has_installed(name):
            left_out.append(name)
        else:
            sources.files[name] = path
    if not sources.files:
        raise InputError(f"the code of {', '.join(left_out)} is installed: there is nothing to make")
    _check_modules(sources.files)
    return Sources(sources.roots, installed, dict(sorted(sources.files.items())), tuple(left_out))


def module_of(name: str) -> str:
    """The Python module that protoc makes: `shop.v1.money_pb2` for `shop/v1/money.proto`."""
    return name.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


def shown(path: Path) -> str:
    """A path as people read it: relative to the working directory, if that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


def _installed() -> tuple[Path, ...]:
    """Where grpcio-tools and googleapis-common-protos keep their protos."""
    folders = []
    for package, parent, distribution in (
        # This folder has the well-known protos, but not their Python code.
        ("grpc_tools", "_proto", "grpcio-tools"),
        ("google.rpc", "../..", "googleapis-common-protos"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"this needs {distribution}: pip install 'pymicro-grpc[tools]'")
        folders.append(_absolute(Path(next(iter(spec.submodule_search_locations)), parent)))
    return tuple(folders)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _protos_of(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".proto":
            raise InputError(f"{path} is no proto: its name does not end in .proto")
        return [_absolute(path)]
    if not path.is_dir():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file or folder {path}{did_you_mean(path.name, beside)}")
    protos = list(protos_below(_absolute(path)))
    if not protos:
        raise InputError(f"there is no .proto file in the folder {path}")
    for proto in protos:
        if not proto.is_file():  # protoc would wait for a pipe
            raise InputError(f"{shown(proto)} is no file, or a link that leads to none")
    return protos


def protos_below(folder: Path, most: int | None = None) -> Iterator[Path]:
    """All protos below the folder, except in virtual environments and hidden folders.

    Hidden files are none: editors and file systems keep notes of their own in `.#a.proto` and `._a.proto`.

    Args:
        most: Folders to look in; all by default.
    """
    for place, folders, files in islice(os.walk(folder), most):
        folders[:] = [
            name
            for name in folders
            # Not Path.is_file, which raises where the folder cannot be read.
            if not name.startswith(".") and not os.path.isfile(os.path.join(place, name, "pyvenv.cfg"))
        ]
        yield from (
            Path(place, name) for name in files if name.endswith(".proto") and not name.startswith(".")
        )


def _root_of(path: Path, protos: Iterable[Path]) -> Path:
    """Where the names of the protos given as `path` begin.

    A proto of package shop.v1 lies in shop/v1. So protos/shop/v1/shop.proto and
    the folder protos/shop both begin at protos.
    """
    above = {_above_package(proto) for proto in protos}
    if len(above) == 1:
        (root,) = above
        if root is not None and (path == root or root in path.parents):
            return root
    return path.parent if path.is_file() else path


def _above_package(proto: Path) -> Path | None:
    """The folder above those of the proto's package, if the proto lies in such folders."""
    try:
        text = proto.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise InputError(f"cannot read {shown(proto)}: {exc.strerror}") from exc
    declared = _PACKAGE.search(text)
    if declared is None:
        return None
    folders = declared[1].split(".")
    if list(proto.parent.parts[-len(folders) :]) != folders:
        return None
    return proto.parents[len(folders)]


def _name_of(path: Path, sources: Sources) -> str:
    above = [root for root in sources.roots if root in path.parents]
    if not above:
        folders = ", ".join(map(shown, sources.roots))
        raise InputError(f"{shown(path)} lies in no folder of the include path (-I): {folders}")
    # A root inside a root is there because imports begin at it.
    name = path.relative_to(max(above, key=lambda root: len(root.parts))).as_posix()
    first = sources.find(name)
    if first is not None and first != path:
        raise InputError(f"{shown(path)} is hidden by {shown(first)}: both are {name} on the include path")
    for part in PurePosixPath(name.removesuffix(".proto")).parts:
        if not all(word.isidentifier() for word in part.replace("-", "_").split(".")):
            raise InputError(f"{shown(path)}: {excerpt(part)} cannot be a name in Python; rename it")
    return name


def _check_modules(files: dict[str, Path]) -> None:
    taken: dict[str, Path] = {}
    for name, path in files.items():
        other = taken.setdefault(module_of(name), path)
        if other != path:
            raise InputError(f"{shown(other)} and {shown(path)} would both become {module_of(name)}")
