"""Running protoc, which comes with grpcio-tools."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymicro.cli.gen_complaints import first_lines, mistakes, plainly, with_paths
from pymicro.cli.gen_sources import Sources
from pymicro.cli.report import InputError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

__all__ = ["Compiled", "compile_protos"]


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
        arguments = folder / "arguments"
        arguments.write_text("\n".join(sources.files), encoding="utf-8")
        done = subprocess.run(
            [
                # A separate process, because protoc writes to file descriptor 2; -P, because a user's
                # folder may have a types.py.
                *(sys.executable, "-P", "-m", "grpc_tools.protoc"),
                *(f"-I{root}" for root in (*sources.roots, *sources.installed)),
                f"--descriptor_set_out={folder / 'described'}",
                "--include_imports",
                *(f"--{kind}_out={code}" for kind in ("python", "grpc_python")),
                # A file of arguments: thousands of names would be too long a command line.
                f"@{arguments}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        printed = plainly(done.stdout)
        if done.returncode:
            said = mistakes(printed, sources) or f"exit code {done.returncode}"
            raise InputError(f"the protos do not compile\n{said}")
        texts = {
            path.relative_to(code).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(code.rglob("*.py*"))
        }
        described = FileDescriptorSet.FromString((folder / "described").read_bytes())
    return Compiled(texts, described, first_lines(with_paths(printed, sources)))
