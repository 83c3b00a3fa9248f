"""`pymicro gen`: what it writes works where it lies, passes mypy, and is written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli_support import Commands
from tests.proto_folder import Folder

MONEY = """
syntax = "proto3";
package shop.v1;
message Money { int64 cents = 1; }
"""

# Imports of each kind: of the own package, of another, of none, of Google's.
SHOP = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/empty.proto";
import "google/rpc/status.proto";
import "shop/v1/money.proto";
import "stock/stock-level.proto";
import "plain.proto";

service Shop {
  rpc Import(Order) returns (Money);
  rpc Watch(Order.Line) returns (stream google.rpc.Status);
  rpc Count(stream stock.Level) returns (google.protobuf.Empty);
  rpc Talk(stream Plain) returns (stream Plain);
}

service Empty {}

message Order {
  message Line { Mood mood = 1; map<string, Order> orders = 2; }
  message None { int32 number = 1; }
  string from = 1;
  repeated Line lines = 2;
  Money price = 3;
  None none = 4;
}

enum Mood {
  CALM = 0;
  pass = 1;
}
"""

STOCK = """
edition = "2023";
package stock;
import public "shop/v1/money.proto";
message Level { int32 number = 1; shop.v1.Money worth = 2; }
"""

PLAIN = """
syntax = "proto2";
message Plain { required string text = 1; extensions 100 to 200; }
extend Plain { optional int32 more = 100; }
service Bare { rpc Go(Plain) returns (Plain); }
"""

# A package that Python cannot spell.
LAMBDA = """
syntax = "proto3";
package lambda.v1;
import "plain.proto";
message Function { Plain plain = 1; def inner = 2; }
message def { string None = 1; }
service Lambda { rpc Run(Function) returns (Function); }
"""

ALL = {
    "shop/v1/money.proto": MONEY,
    "shop/v1/shop.proto": SHOP,
    "stock/stock-level.proto": STOCK,
    "plain.proto": PLAIN,
    "lambda/v1/function.proto": LAMBDA,
}

USER = """
from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import {prefix}plain_pb2
from google.protobuf.empty_pb2 import Empty
from {prefix}shop.v1 import money_pb2, shop_pb2, shop_pb2_grpc
from {prefix}stock import stock_level_pb2

from pymicro import Client, Service
from pymicro.sync import Client as SyncClient

Context = grpc.aio.ServicerContext


class Shop(shop_pb2_grpc.ShopServicer):
    async def Import(
        self, order: shop_pb2.Order, context: Context[shop_pb2.Order, money_pb2.Money]
    ) -> money_pb2.Money:
        return money_pb2.Money(cents=order.price.cents + len(order.lines[0].orders["a"].lines))

    async def Count(
        self,
        request_iterator: AsyncIterator[stock_level_pb2.Level],
        context: Context[stock_level_pb2.Level, Empty],
    ) -> Empty:
        async for level in request_iterator:
            print(level.number + level.worth.cents)
        return Empty()

    async def Talk(
        self,
        request_iterator: AsyncIterator[{prefix}plain_pb2.Plain],
        context: Context[{prefix}plain_pb2.Plain, {prefix}plain_pb2.Plain],
    ) -> AsyncIterator[{prefix}plain_pb2.Plain]:
        async for plain in request_iterator:
            yield {prefix}plain_pb2.Plain(text=plain.text.upper())


async def serve() -> None:
    shop_pb2_grpc.add_ShopServicer_to_server(Shop(), grpc.aio.server())
    shop_pb2_grpc.add_ShopServicer_to_server(Shop(), Service("shop"))


def call_without_async(line: shop_pb2.Order.Line) -> None:
    with SyncClient() as client:
        stub = shop_pb2_grpc.ShopStub(client.channel("shop"))
        money: money_pb2.Money = stub.Import(shop_pb2.Order(lines=[line]), timeout=2)
        money, call = stub.Import.with_call(shop_pb2.Order(lines=[line]))
        money = stub.Import.future(shop_pb2.Order(lines=[line])).result()
        print(money.cents, call.code().name)
        for plain in stub.Talk(iter([{prefix}plain_pb2.Plain(text="a")])):
            print(plain.text.upper())
        count(stub)


def count(stub: shop_pb2_grpc.ShopStubSync) -> None:
    print(stub.Count(iter([stock_level_pb2.Level(number=1)])))


async def call(line: shop_pb2.Order.Line) -> None:
    async with Client() as client:
        stub = shop_pb2_grpc.ShopStub(client.channel("shop"))
        order = shop_pb2.Order(lines=[line], price={{"cents": 3}})
        money: money_pb2.Money = await stub.Import(order, timeout=2)
        talk = stub.Talk({prefix}plain_pb2.Plain(text="a") for _ in range(money.cents))
        async for plain in talk:
            print(plain.text.upper())
{more}
"""

MISTAKES = """
        await stub.Import(money)
        await stub.Export(order)
        print(money.euros)
        with SyncClient() as synchronous:
            shop_pb2_grpc.ShopStub(synchronous.channel("shop")).Import(line)


class Wrong(shop_pb2_grpc.ShopServicer):
    async def Import(
        self, request: money_pb2.Money, context: Context[shop_pb2.Order, money_pb2.Money]
    ) -> money_pb2.Money:
        return request
"""


@pytest.fixture
def folder(pymicro: Commands) -> Folder:
    return Folder(pymicro)


async def test_it_says_what_it_wrote_and_the_next_run_finds_nothing_to_do(folder: Folder) -> None:
    folder.write({"shop/v1/money.proto": MONEY, "plain.proto": PLAIN})
    result = await folder.pymicro("gen")
    assert (result.code, result.err) == (0, "names begin at protos (-I)\n")
    written = [
        "plain_pb2.py",
        "plain_pb2.pyi",
        "plain_pb2_grpc.py",
        "plain_pb2_grpc.pyi",
        "shop/__init__.py",
        "shop/v1/__init__.py",
        "shop/v1/money_pb2.py",
        "shop/v1/money_pb2.pyi",  # and none of grpc's: it has no service
    ]
    assert result.out.splitlines() == [f"wrote {name}" for name in written]
    before = folder.content()
    assert {name for name, data in before.items() if data is not None and "protos" not in name} == set(
        written
    )
    assert await folder.gen() == "unchanged: 6 files\n"
    assert folder.content() == before


async def test_code_of_every_kind_of_proto_can_be_imported(folder: Folder) -> None:
    folder.write(ALL)
    await folder.gen()
    printed = folder.python(
        "import importlib, pickle\n"
        "from shop.v1 import shop_pb2, shop_pb2_grpc\n"
        "from stock.stock_level_pb2 import Level, Money\n"
        "from plain_pb2_grpc import BareStub\n"
        "importlib.import_module('lambda.v1.function_pb2_grpc').LambdaStub\n"
        "print(pickle.loads(pickle.dumps(shop_pb2.Order.Line(mood=1))))\n"
        "print(Level(worth=Money(cents=3)).worth.cents)"
    )
    assert printed == "mood: pass\n\n3\n"


@pytest.mark.parametrize("package", ["", "app.generated."])
async def test_strict_mypy_passes_and_finds_mistakes(folder: Folder, package: str) -> None:
    folder.write(ALL)
    out = package.replace(".", "/") or "."
    if package:
        folder.write({"__init__.py": ""}, "app")
    await folder.gen("-o", out)
    user = folder.path / "user.py"
    user.write_text(USER.format(prefix=package, more=""))
    assert folder.mypy() == []
    user.write_text(USER.format(prefix=package, more=MISTAKES))
    errors = folder.mypy()
    assert [error for error in errors if "user.py" not in error] == []
    for words in (
        '"Money"; expected "Order"',
        '"Line"; expected "Order"',
        'no attribute "Export"',
        'no attribute "euros"',
        '"Import" is incompatible with supertype',
    ):
        assert [error for error in errors if words in error], words
    folder.python("import user; from user import shop_pb2; print(shop_pb2.__name__)")


async def test_in_a_package_every_import_is_relative(folder: Folder) -> None:
    folder.write(ALL)
    folder.write({"__init__.py": ""}, "app")
    assert "wrote app/generated/__init__.py" in await folder.gen("-o", "app/generated")
    printed = folder.python(
        "import pickle\n"
        "from app.generated.shop.v1 import shop_pb2, shop_pb2_grpc\n"
        "order = pickle.loads(pickle.dumps(shop_pb2.Order(price={'cents': 3})))\n"
        "print(order.price.cents, type(order).__module__, [n for n in sys.modules if n.startswith('shop')])"
    )
    assert printed == "3 app.generated.shop.v1.shop_pb2 []\n"


async def test_what_is_on_the_path_itself_is_relative_within_a_package(folder: Folder) -> None:
    folder.write(ALL)
    await folder.gen("-o", "out")
    text = (folder.path / "out/shop/v1/shop_pb2.py").read_text()
    assert "\nfrom . import money_pb2 as " in text
    # A relative import cannot lead out of the uppermost package.
    assert "\nfrom stock import stock_level_pb2 as " in text
    assert "\nfrom google.rpc import status_pb2 as " in text


async def test_trees_of_one_package_and_ones_own_modules_live_together(folder: Folder) -> None:
    folder.write({"acme/a/a.proto": 'syntax = "proto3"; package acme.a; message A {}'}, "one")
    folder.write({"acme/b/b.proto": 'syntax = "proto3"; package acme.b; message B {}'}, "two")
    folder.write({"acme/own.py": "", "acme/c/__init__.py": "MINE = True\n", "acme/c/d.py": ""}, "out-two")
    folder.write({"acme/c/c.proto": 'syntax = "proto3"; package acme.c; message C {}'}, "two")
    await folder.gen("one", "-o", "out-one")
    await folder.gen("two", "-o", "out-two")
    printed = folder.python(
        "import acme.own, acme.c.d, acme.a.a_pb2, acme.b.b_pb2, acme.c.c_pb2; print(acme.c.MINE)",
        "out-one",
        "out-two",
    )
    assert printed == "True\n"


async def test_check_tells_what_would_change_and_changes_nothing(folder: Folder) -> None:
    folder.write({"shop/v1/money.proto": MONEY, "shop/v1/old.proto": MONEY.replace("Money", "Old")})
    folder.write({"now.proto": 'syntax = "proto3";', "was.proto": 'syntax = "proto3";'})
    await folder.gen()
    result = await folder.pymicro("gen", "--check")
    assert (result.code, result.out) == (0, "up to date: 8 files\n")

    (folder.path / "protos/shop/v1/old.proto").unlink()
    (folder.path / "protos/was.proto").unlink()
    (folder.path / "protos/shop/v1/money.proto").write_text(MONEY.replace("cents", "pence"))
    (folder.path / "shop/__init__.py").unlink()
    before = folder.content()
    result = await folder.pymicro("gen", "--check")
    assert result.code == 1
    assert result.out.splitlines() == [
        "missing  shop/__init__.py",
        "differs  shop/v1/money_pb2.py",
        "differs  shop/v1/money_pb2.pyi",
        "stale    shop/v1/old_pb2.py",
        "stale    shop/v1/old_pb2.pyi",
        "stale    was_pb2.py",
        "stale    was_pb2.pyi",
    ]
    assert result.err.splitlines()[-1] == "7 files to mend: run this without --check"
    assert folder.content() == before

    result = await folder.pymicro("gen")
    assert "stale: shop/v1/old_pb2.py (" in result.err
    assert (folder.path / "shop/v1/old_pb2.py").exists()  # to delete is not its business


async def test_code_of_a_service_that_is_gone_is_stale(folder: Folder) -> None:
    folder.write({"plain.proto": PLAIN})
    await folder.gen()
    folder.write({"plain.proto": PLAIN.partition("service")[0]})
    await folder.gen()
    result = await folder.pymicro("gen", "--check")
    assert (result.code, result.out) == (1, "stale    plain_pb2_grpc.py\nstale    plain_pb2_grpc.pyi\n")


async def test_check_tells_that_other_tools_made_it(folder: Folder) -> None:
    folder.write({"shop/v1/money.proto": MONEY})
    await folder.gen()
    path = folder.path / "shop/v1/money_pb2.py"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join("# Protobuf Python Version: 1.2.3\n" if "Version:" in li else li for li in lines))
    result = await folder.pymicro("gen", "--check")
    assert result.code == 1
    assert "made by version 1.2.3 of the tools, and here is " in result.err


async def test_the_same_bytes_come_from_any_folder_and_for_a_part_of_the_files(
    folder: Folder, tmp_path: Path
) -> None:
    folder.write(ALL)
    await folder.gen()
    before = folder.content()
    elsewhere = tmp_path / "elsewhere"
    # What lies there has no part in it.
    (elsewhere / "shop" / "v1").mkdir(parents=True)
    (elsewhere / "shop/v1/money.proto").write_text("nonsense")
    argv = ("gen", str(folder.path / "protos"), "-o", str(folder.path))
    result = await folder.pymicro(*argv, cwd=elsewhere)
    assert result.code == 0, result.err
    assert folder.content() == before
    # Nor what lies there and on the include path, which protoc would take for it.
    folder.write({"old/shop/v1/money.proto": "nonsense"})
    argv = ("gen", "-I", "..", "../shop/v1/money.proto", "-o", "../..")
    result = await folder.pymicro(*argv, cwd=folder.path / "protos/old")
    assert result.code == 0, result.err
    shutil.rmtree(folder.path / "protos/old")
    assert folder.content() == before
    # A file's names begin above the folders of its package.
    for path in ("protos/shop/v1/shop.proto", "protos/shop"):
        assert (await folder.gen(path)).startswith("unchanged: ")
    assert folder.content() == before


async def test_mistakes_in_a_proto_are_told_once_with_their_place(folder: Folder) -> None:
    folder.write(
        {"shop/v1/money.proto": MONEY, "shop/v1/bad.proto": MONEY.replace("int64 cents", "Euro cents")}
    )
    message = await folder.refused()
    assert message.splitlines() == [
        "names begin at protos (-I)",
        "pymicro gen: the protos do not compile",
        'protos/shop/v1/bad.proto:4:17: "Euro" is not defined.',
    ]


async def test_a_warning_is_shown_and_the_code_written(folder: Folder) -> None:
    unused = MONEY.replace("message", 'import "google/protobuf/any.proto"; message')
    folder.write({"shop/v1/money.proto": unused})
    result = await folder.pymicro("gen", "-I", "protos", "protos")
    assert result.code == 0
    assert result.err.startswith("protos/shop/v1/money.proto:4:1: warning: Import google/protobuf/any.proto")
    assert "wrote shop/v1/money_pb2.py" in result.out


async def test_a_proto_without_syntax_is_told_without_the_log_of_protoc(folder: Folder) -> None:
    folder.write({"old.proto": "message Old {}", "a/older.proto": "message Older {}"})
    result = await folder.pymicro("gen", "-I", "protos", "protos")
    said = 'warning: it says no edition or syntax, so "proto2" is meant'
    assert (result.code, sorted(result.err.splitlines())) == (
        0,
        [f"protos/a/older.proto: {said}", f"protos/old.proto: {said}"],
    )
    folder.write({"old.proto": "messag Old {}"})
    assert "proto2" not in await folder.refused()


async def test_notes_of_editors_and_file_systems_are_no_protos(folder: Folder) -> None:
    folder.write({"shop/v1/money.proto": MONEY, "shop/v1/._money.proto": "\0", "shop/v1/..proto": "x"})
    (folder.path / "protos/shop/v1/.#money.proto").symlink_to("somebody@somewhere.1234")
    assert "money_pb2.py" in await folder.gen("protos")


@pytest.mark.parametrize("kind", ["pipe", "link"])
async def test_what_is_no_file_is_neither_read_nor_waited_for(folder: Folder, kind: str) -> None:
    folder.write({"shop/v1/money.proto": MONEY})
    path = folder.path / "protos" / "odd.proto"
    path.symlink_to("gone.proto") if kind == "link" else os.mkfifo(path)
    for argv in ([], ["protos"]):
        assert "protos/odd.proto is no file, or a link that leads to none" in await folder.refused(*argv)


@pytest.mark.parametrize("obstacle", ["shop/v1", "shop/v1/money_pb2.pyi/x"])
async def test_what_cannot_be_written_whole_is_not_written(folder: Folder, obstacle: str) -> None:
    folder.write({"shop/v1/money.proto": MONEY, "a/a.proto": 'syntax = "proto3"; package a;'})
    folder.write({obstacle: "in the way"}, "out")
    message = await folder.refused("-o", "out")
    assert "pymicro gen: cannot write out/shop/v1" in message


async def test_an_import_needs_code_which_may_have_been_made_before(folder: Folder) -> None:
    folder.write(ALL)
    argv = ("-I", "protos", "protos/stock/stock-level.proto")
    message = await folder.refused(*argv)
    assert message == (
        "pymicro gen: stock/stock-level.proto imports shop/v1/money.proto, of which there is no Python code "
        "in .: name protos/shop/v1/money.proto too\n"
    )
    await folder.gen("-I", "protos", "protos/shop/v1/money.proto")
    await folder.gen(*argv)
    folder.python("from stock.stock_level_pb2 import Level, Money")


async def test_what_is_imported_by_way_of_others_is_relative_too(folder: Folder) -> None:
    through = (
        'syntax = "proto3"; package a; import "stock/stock-level.proto"; service A {rpc Go(%s) returns (%s);}'
    )
    folder.write({**ALL, "a/a.proto": through % ("shop.v1.Money", "stock.Level")})
    folder.write({"__init__.py": ""}, "app")
    await folder.gen("-o", "app")
    for name in ("a_pb2.py", "a_pb2.pyi", "a_pb2_grpc.py", "a_pb2_grpc.pyi"):
        (folder.path / "app/a" / name).unlink()
    await folder.gen("-o", "app", "-I", "protos", "protos/a/a.proto")
    assert "\nfrom ..shop.v1 import money_pb2" in (folder.path / "app/a/a_pb2_grpc.pyi").read_text()
    folder.python("import app.a.a_pb2_grpc")


async def test_a_copy_of_googles_protos_is_not_made_again(folder: Folder) -> None:
    status = 'syntax = "proto3"; package google.rpc; message Status {}'
    uses = (
        'syntax = "proto3"; package a; import "google/rpc/status.proto"; message A {google.rpc.Status s = 1;}'
    )
    own = 'syntax = "proto3"; package google.own; import "a/a.proto"; message Own {a.A a = 1;}'
    folder.write({"google/rpc/status.proto": status, "a/a.proto": uses, "google/own/own.proto": own})
    result = await folder.pymicro("gen")
    assert result.code == 0, result.err
    assert "left out, because its code is installed: google/rpc/status.proto" in result.err
    assert not (folder.path / "google/rpc").exists()
    # The name google stays open for others.
    folder.python("import google.own.own_pb2, google.rpc.status_pb2, google.protobuf.empty_pb2")


@pytest.mark.parametrize(
    ("files", "argv", "words"),
    [
        ({}, [], "there is no folder protos here: name the protos"),
        ({"a.proto": PLAIN}, ["proto"], "there is no file or folder proto; did you mean 'protos'?"),
        ({"a.txt": ""}, ["protos"], "there is no .proto file in the folder protos"),
        ({"a.txt": ""}, ["protos/a.txt"], "protos/a.txt is no proto"),
        (
            {"a.proto": PLAIN, "b/b.proto": ""},
            ["protos/a.proto", "-I", "protos/b"],
            "include path (-I): protos/b",
        ),
        ({"a.proto": PLAIN}, ["-I", "none"], "'none' does not exist"),
        (
            {"x/a.proto": PLAIN, "y/a.proto": PLAIN},
            ["protos/x", "protos/y"],
            "protos/x/a.proto: both are a.proto",
        ),
        ({"a b.proto": PLAIN}, [], "protos/a b.proto: 'a b' cannot be a name in Python"),
        ({"a-b.proto": PLAIN, "a_b.proto": PLAIN}, [], "would both become a_b_pb2"),
        ({"types/a.proto": MONEY}, [], "the package types would hide the module 'types'"),
        ({"a.proto": PLAIN.replace("rpc Go", "rpc None")}, [], "service Bare: 'None' is a keyword"),
        (
            {"a.proto": 'syntax = "proto3"; service Bare { rpc Go(def) returns (def); } message def {}'},
            [],
            "service Bare: 'def' is a keyword",
        ),
        ({"a.proto": "}\n" * 500}, [], " lines more"),
    ],
)
async def test_what_cannot_be_is_one_message(
    folder: Folder, files: dict[str, str], argv: list[str], words: str
) -> None:
    folder.write(files)
    message = await folder.refused(*argv)
    assert "pymicro gen: " in message
    assert words in message


async def test_without_grpcio_tools_the_extra_is_named(folder: Folder, tmp_path: Path) -> None:
    folder.write({"plain.proto": PLAIN})
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['grpc_tools'] = None")
    result = await folder.pymicro("gen", PYTHONPATH=str(tmp_path))
    said = "pymicro gen: this needs grpcio-tools: pip install 'pymicro-grpc[tools]'\n"
    assert (result.code, result.out, result.err) == (2, "", said)


X = 'syntax = "proto3"; package x; message X {}'
USES_X = 'syntax = "proto3"; package shop; import "%s"; message Shop { x.X x = 1; }'


@pytest.mark.parametrize("roots", [("protos", "protos/third_party"), ("protos/third_party", "protos")])
async def test_the_innermost_root_names_a_file(folder: Folder, roots: tuple[str, str]) -> None:
    folder.write({"third_party/x/x.proto": X, "shop/shop.proto": USES_X % "x/x.proto"})
    include = [argument for root in roots for argument in ("-I", root)]
    await folder.gen(*include, "protos")
    assert (folder.path / "x/x_pb2.py").exists()
    assert not (folder.path / "third_party").exists()
    folder.python("import shop.shop_pb2")
    # The other name would be another file, with the same messages.
    folder.write({"shop/shop.proto": USES_X % "third_party/x/x.proto"})
    message = await folder.refused(*include, "protos")
    assert message.endswith(
        "third_party/x/x.proto is the same file, because a folder of the include path (-I) lies in another: "
        'import "x/x.proto"\n'
    )


async def test_an_import_that_no_root_has_is_one_line_with_the_root_that_would(folder: Folder) -> None:
    more = 'syntax = "proto3"; import "shop/shop.proto"; message More { shop.Shop shop = 1; }'
    folder.write(
        {"third_party/x/x.proto": X, "shop/shop.proto": USES_X % "x/x.proto", "shop/more.proto": more}
    )
    message = await folder.refused()
    assert message.splitlines()[1:] == [
        "pymicro gen: the protos do not compile",
        "protos/shop/shop.proto:1:34: the imported x/x.proto is in no folder of the include path (-I): "
        "add -I protos/third_party",
    ]
    shutil.rmtree(folder.path / "protos/third_party")
    assert (await folder.refused()).endswith("is in no folder of the include path (-I)\n")


async def test_files_that_import_a_wrong_one_are_not_complained_about(folder: Folder) -> None:
    folder.write({"x/x.proto": X.replace("X {}", "X { Y y = 1; }"), "shop/shop.proto": USES_X % "x/x.proto"})
    message = await folder.refused()
    assert message.splitlines()[1:] == [
        "pymicro gen: the protos do not compile",
        'protos/x/x.proto:1:43: "Y" is not defined.',
    ]


async def test_files_that_import_each_other_are_refused(folder: Folder) -> None:
    folder.write({f"{a}.proto": f'syntax = "proto3"; import "{b}.proto";' for a, b in ("ab", "ba")})
    assert "recursively imports itself" in await folder.refused()


async def test_a_folder_that_would_hide_a_module_is_refused(folder: Folder) -> None:
    folder.write({"x/x.proto": X})
    folder.write({"x/x_pb2/mine.py": ""}, ".")
    await folder.gen()  # a folder that is no package hides nothing
    folder.python("from x.x_pb2 import X")
    folder.write({"x/x_pb2/__init__.py": ""}, ".")
    message = await folder.refused()
    assert "pymicro gen: the folder x/x_pb2 hides x/x_pb2.py: Python imports a folder that has" in message
    shutil.rmtree(folder.path / "x")
    # A folder of protos becomes such a folder.
    folder.write({"x/x_pb2/y.proto": 'syntax = "proto3"; package x.x_pb2;'})
    assert "the folder x/x_pb2 hides x/x_pb2.py" in await folder.refused()


async def test_of_many_files_that_are_left_out_a_few_are_named(folder: Folder) -> None:
    for name in ("status", "code", "error_details", "http"):
        folder.write({f"google/rpc/{name}.proto": 'syntax = "proto3"; package google.rpc;'})
    folder.write({"x/x.proto": X})
    result = await folder.pymicro("gen")
    assert result.err.splitlines()[1] == (
        "left out, because their code is installed: google/rpc/code.proto, google/rpc/error_details.proto, "
        "google/rpc/http.proto and 1 more"
    )
