"""Running protoc, which comes with grpcio-tools."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymicro.cli.gen_sources import Sources, shown
from pymicro.cli.report import InputError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

__all__ = ["Compiled", "compile_protos"]

# More lines would scroll the first one away.
_LISTED = 20

_PLACE = re.compile(r"^(?P<name>[^:\n]+\.proto)(?=:)", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """protoc's results.

    Attributes:
        texts: Python code by its path, such as `shop/v1/shop_pb2.py`.
        described: The protos and all their imports.
        warnings: What protoc printed although it succeeded.
    """

    texts: dict[str, str]
    described: FileDescriptorSet
    warnings: str


def compile_protos(sources: Sources) -> Compiled:
    """Make the code of all protos at once, in a temporary folder.

    Raises:
        InputError: protoc refused the protos; in its own words.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with tempfile.TemporaryDirectory(prefix="pymicro-gen-") as temporary:
        folder = Path(temporary)
        code = folder / "code"
        code.mkdir()
        done = subprocess.run(
            [
                # A separate process, because protoc writes to file descriptor 2; -P, because a user's
                # folder may have a types.py.
                *(sys.executable, "-P", "-m", "grpc_tools.protoc"),
                *(f"-I{root}" for root in (*sources.roots, *sources.installed)),
                f"--descriptor_set_out={folder / 'described'}",
                "--include_imports",
                *(f"--{kind}_out={code}" for kind in ("python", "pyi", "grpc_python")),
                *sources.files,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        said = _PLACE.sub(lambda match: _path_of(match["name"], sources), done.stdout).strip()
        if done.returncode:
            raise InputError(f"the protos do not compile\n{_first(said) or f'exit code {done.returncode}'}")
        texts = {
            path.relative_to(code).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(code.rglob("*.py*"))
        }
        described = FileDescriptorSet.FromString((folder / "described").read_bytes())
    return Compiled(texts, described, said)


def _first(said: str) -> str:
    """The first of many lines: if a file is not text, protoc complains about each byte."""
    lines = said.splitlines()
    more = [f"and {len(lines) - _LISTED} lines more"] if len(lines) > _LISTED else []
    return "\n".join([*lines[:_LISTED], *more])


def _path_of(name: str, sources: Sources) -> str:
    path = sources.find(name)
    return shown(path) if path else name
