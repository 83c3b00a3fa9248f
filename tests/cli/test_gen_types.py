"""The types that `pymicro gen` writes: each name means what its proto means, whatever hides it.

The samples are of the kinds that `make test-trees` found in thousands of files.
"""

from __future__ import annotations

import pytest

from tests.cli_support import Commands
from tests.proto_folder import Folder

HIDDEN = """
syntax = "proto3";
package odd.v1;
import "google/protobuf/struct.proto";

message int { int32 x = 1; }
// mypy knows classes of these names, and Python programs seldom do without.
message Report { repeated ImportError errors = 1; Warning warning = 2; }
message ImportError { string text = 1; }
message Warning {}
// As scoping enum values: a message inside one of its own name.
message Mood { enum Mood { CALM = 0; real = 1; Name = 2; } Mood mood = 1; }

message Odd {
  message Odd { int32 depth = 1; Inner inner = 2; message Inner {} }
  // What a message, a class or the types themselves have.
  message Clear {}
  enum ListFields { NONE = 0; }
  Odd inner = 1;
  .odd.v1.Odd outer = 2;
  string int = 3;
  int32 str = 4;
  repeated int32 numbers = 5;
  .odd.v1.int message = 6;
  bytes bytes = 7;
  map<string, .odd.v1.int> messages = 8;
  .odd.v1.Mood.Mood mood = 9;
  repeated .odd.v1.Mood.Mood moods = 10;
  oneof choice { string self = 11; bool bool = 12; }
  optional string HasField = 13;
  string _message = 14;
  string _Iterable = 15;
  string from = 16;
  string __init__ = 17;
  string Report = 18;
  .odd.v1.Report report = 19;
  google.protobuf.NullValue nothing = 20;
  repeated google.protobuf.NullValue nothings = 21;
}

service Odds {
  rpc _aio(Odd) returns (Mood);
  rpc Go(Odd.Odd) returns (stream Odd.Odd.Inner);
  rpc _odd_dot_v1_dot_odd__pb2(Odd) returns (Odd);
}
"""

HIDDEN_USER = """
from typing import assert_type

from google.protobuf import struct_pb2
from google.protobuf.message import Message

from odd.v1 import odd_pb2 as pb
from odd.v1 import odd_pb2_grpc


def look(odd: pb.Odd, report: pb.Report) -> None:
    assert_type(odd.inner, pb.Odd.Odd)
    assert_type(odd.outer, pb.Odd)
    assert_type(odd.int, str)
    assert_type(odd.str, int)
    assert_type([*odd.numbers], list[int])
    assert_type(odd.message, pb.int)
    assert_type(odd.message.x, int)
    assert_type(odd.bytes, bytes)
    assert_type(odd.messages["a"], pb.int)
    assert_type(odd.mood, pb.Mood.Mood)
    assert_type(odd.moods[0], pb.Mood.Mood)
    assert_type(odd.self, str)
    assert_type(odd.bool, bool)
    assert_type(odd.HasField, str)
    assert_type(odd.report.errors[0], pb.ImportError)
    assert_type(report.warning, pb.Warning)
    assert_type(pb.Odd.NONE, pb.Odd.ListFields)
    assert_type(odd.nothing, struct_pb2.NullValue.ValueType)
    message: Message = odd
    print(message)


def build() -> pb.Odd:
    return pb.Odd(
        inner=pb.Odd.Odd(depth=1),
        outer=pb.Odd(int="a", str=1, numbers=[1]),
        message={"x": 1},
        messages={"a": pb.int(x=1)},
        mood=pb.Mood.CALM,
        moods=["CALM", pb.Mood.Mood.CALM],
        self="b",
        nothing=struct_pb2.NULL_VALUE,
    )


print(build().outer.str, odd_pb2_grpc.OddsStub)
"""

PASSED_ON = """
syntax = "proto2";
package top;
import public "odd/v1/odd.proto";
import public "left/right.proto";
option py_generic_services = true;
message Report {
  optional odd.v1.Report odd = 1;
  extensions 100 to 199;
  extend Report { optional Report deeper = 101; }
}
extend Report { optional int32 more = 100; }
service Old { rpc Go(Report) returns (Report); }
"""

PASSED_ON_USER = """
from typing import assert_type

from top import top_pb2

assert_type(top_pb2.Report().odd.warning, top_pb2.Warning)
assert_type(top_pb2.Right(), top_pb2.Right)
number: int = top_pb2.MORE_FIELD_NUMBER + top_pb2.Report.DEEPER_FIELD_NUMBER
print(number, top_pb2.Report().Extensions[top_pb2.more], top_pb2.WEST, top_pb2.Old)
"""

# Part of a package that is installed too, which hides the installed one from mypy.
SPLIT = """
syntax = "proto3";
package google.api.own;
import "google/api/launch_stage.proto";
import "google/api/annotations.proto";
message Own { google.api.LaunchStage stage = 1; }
service Owns { rpc Get(Own) returns (Own) { option (google.api.http) = { get: "/v1/owns" }; } }
"""


@pytest.fixture
def folder(pymicro: Commands) -> Folder:
    return Folder(pymicro)


async def test_a_type_that_a_name_hides_is_still_that_type(folder: Folder) -> None:
    folder.write({"odd/v1/odd.proto": HIDDEN})
    await folder.gen()
    folder.write({"user.py": HIDDEN_USER}, ".")
    assert folder.mypy() == []
    assert folder.python("import user").startswith("1 <class")
    # And a mistake is one.
    folder.write({"wrong.py": "from odd.v1 import odd_pb2\nodd_pb2.Odd(inner=odd_pb2.Odd())\n"}, ".")
    (error,) = folder.mypy()
    assert 'Argument "inner" to "Odd" has incompatible type "odd.v1.odd_pb2.Odd"' in error


async def test_names_that_are_passed_on_and_extensions_have_types(folder: Folder) -> None:
    folder.write({"odd/v1/odd.proto": HIDDEN, "top/top.proto": PASSED_ON})
    folder.write(
        {"left/right.proto": "edition = '2023'; package left; message Right {} enum Side { WEST = 0; }"}
    )
    await folder.gen()
    folder.write({"user.py": PASSED_ON_USER}, ".")
    assert folder.mypy() == []
    assert folder.python("import user") == "201 0 0 <class 'top.top_pb2.Old'>\n"


async def test_a_package_of_which_a_part_is_installed_has_types(folder: Folder) -> None:
    folder.write({"google/api/own/own.proto": SPLIT})
    await folder.gen()
    folder.write({"user.py": "from google.api.own import own_pb2\nprint(own_pb2.Own(stage=4).stage)\n"}, ".")
    assert folder.mypy() == []
    assert folder.python("import user") == "4\n"
