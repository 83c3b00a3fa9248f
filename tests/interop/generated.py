"""Code generated from `testservice.proto`, made when this module is first imported.

from tests.interop.generated import pb, rpc
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from grpc_tools import protoc

__all__ = ["pb", "rpc"]


def _generate() -> None:
    folder = tempfile.mkdtemp(prefix="pymicro-test-interop-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = Path(__file__).parent
    out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", f"-I{source}", *out, "testservice.proto"]) != 0:
        raise RuntimeError("testservice.proto does not compile")
    sys.path.insert(0, folder)


_generate()

# Any: what protoc writes at run time has no types to check.
pb: Any = importlib.import_module("testservice_pb2")
rpc: Any = importlib.import_module("testservice_pb2_grpc")
