"""Protos of the tests' own, compiled with grpcio-tools when this module is first imported.

from tests.protos import zoo_pb2 as pb
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ZOO = """
syntax = "proto3";
package pymicro.tests.zoo;

// All four shapes, and a name that is a keyword in Python.
service Keeper {
  rpc Import(Animal) returns (Animal);
  rpc Watch(Query) returns (stream Animal);
  rpc Count(stream Animal) returns (Tally);
  rpc Talk(stream Animal) returns (stream Animal);
}

// The same with case and underscores dropped.
service Twins {
  rpc GetFoo(Query) returns (Animal);
  rpc Get_Foo(Query) returns (Animal);
}

service Gate {
  rpc OpenGate(Query) returns (Tally);
}

message Animal {
  string name = 1;
  int32 legs = 2;
  repeated Animal young = 3;
  map<string, int64> weights = 4;
  repeated string names = 5;
  Mood mood = 6;
}

enum Mood {
  CALM = 0;
  ANGRY = 1;
}

message Query {
  string name = 1;
}

message Tally {
  int32 count = 1;
}
"""

STRICT = """
syntax = "proto2";
package pymicro.tests.strict;

service Strictness {
  rpc Fill(Form) returns (Form);
}

message Form {
  required string secret_field = 1;
  optional string note = 2;
}
"""


def _compile() -> None:
    from grpc_tools import protoc

    folder = Path(tempfile.mkdtemp(prefix="pymicro-test-protos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in (("pymicro_tests_zoo", ZOO), ("pymicro_tests_strict", STRICT)):
        (folder / f"{name}.proto").write_text(text)
        out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        if protoc.main(["protoc", f"-I{folder}", *out, f"{name}.proto"]) != 0:
            raise RuntimeError(f"{name}.proto does not compile")
    sys.path.insert(0, str(folder))


_compile()

# Any: what protoc writes at run time has no types to check.
zoo_pb2: Any = importlib.import_module("pymicro_tests_zoo_pb2")
zoo_pb2_grpc: Any = importlib.import_module("pymicro_tests_zoo_pb2_grpc")
strict_pb2: Any = importlib.import_module("pymicro_tests_strict_pb2")
strict_pb2_grpc: Any = importlib.import_module("pymicro_tests_strict_pb2_grpc")
