"""Writes the protos anew from which the Python code in a folder was made.

    python -m tests.trees.rebuilt CODE OUT

CODE must be the first folder on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from pymicro.rpc.schema import Schema, Symbols, file_text


def _files(code: Path) -> list[FileDescriptorProto]:
    found = {}
    for path in sorted(code.rglob("*_pb2.py")):
        name = path.relative_to(code).with_suffix("").as_posix().replace("/", ".")
        # xds-protos has a package `test`, which Python's own hides.
        if name.startswith("test."):
            continue
        module = importlib.import_module(name)
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        found[file.name] = file
    return list(found.values())


def main(code: Path, out: Path) -> None:
    """Write the proto of each module in `code`."""
    files = _files(code)
    schema = Schema()
    schema.add(files)
    known = schema.files()
    symbols = Symbols(known)
    names = {file.name for file in files}
    for file in known:
        if file.name in names:
            path = out / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file_text(file, symbols), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
