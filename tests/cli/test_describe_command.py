from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2

from tests.cli_support import Commands, Result
from tests.described import DescribedServer, compile_protos
from tests.shop import V1, ShopServer, shop_files

PROTOS = Path(__file__).parent.parent / "rpc" / "schema" / "protos"


@pytest.fixture(scope="module")
def text_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    output = tmp_path_factory.mktemp("describe") / "set.pb"
    return compile_protos(PROTOS, output, ["text/v1/new.proto"], comments=True)


async def test_without_a_symbol_the_services_are_shown(pymicro: Commands) -> None:
    async with ShopServer((V1,), ("shop.v1.Warehouse", V1)) as server:
        result = await pymicro("describe", "shop", "--address", server.address)
        assert result == Result(
            0,
            "// shop.v1.Warehouse, in shop/v1/shop.proto\n"
            "\n"
            "service Warehouse {\n"
            "  rpc Restock(Order) returns (Receipt);\n"
            "  rpc Find(google.protobuf.StringValue) returns (Receipt);\n"
            "}\n",
            "",
        )
        as_json = await pymicro("describe", "shop", "-o", "json", "--address", server.address)
        (service,) = json.loads(as_json.out)
        assert service["name"] == "shop.v1.Warehouse"
        assert service["descriptor"]["method"][0] == {
            "name": "Restock",
            "inputType": ".shop.v1.Order",
            "outputType": ".shop.v1.Receipt",
        }


async def test_a_method_comes_with_its_messages(pymicro: Commands) -> None:
    async with ShopServer((V1,)) as server:
        result = await pymicro("describe", "shop", "Warehouse/Find", "--address", server.address)
    assert (result.code, result.err) == (0, "")
    assert "\nrpc Find(google.protobuf.StringValue) returns (Receipt);\n" in result.out
    assert "\nmessage StringValue {\n" in result.out
    assert "\nmessage Receipt {\n  string text = 1;\n" in result.out


async def test_what_no_service_imports_is_asked_for_by_name(pymicro: Commands) -> None:
    async with ShopServer((V1,)) as server:
        result = await pymicro("describe", "shop", "shop.v1.Gift", "--address", server.address)
        assert result.out.endswith("\nmessage Gift {\n  string from = 1;\n}\n")
        result = await pymicro("describe", "shop", "Ordr", "--address", server.address)
        assert result == Result(
            2, "", "pymicro describe: there is no symbol 'Ordr'; did you mean shop.v1.Order?\n"
        )


async def test_comments_and_options_of_ones_own_are_shown_where_the_server_has_them(
    pymicro: Commands, text_files: dict[str, FileDescriptorProto]
) -> None:
    async with DescribedServer(text_files.values(), ["text.v1.Reader", "text.v1.Gone"]) as server:
        result = await pymicro("describe", "text", "--address", server.address)
        assert result.err == (
            "the server names text.v1.Gone and does not describe it: "
            "the server's reflection does not know text.v1.Gone\n"
        )
        assert result.out.startswith(
            "// text.v1.Reader, in text/v1/new.proto\n"
            "\n"
            "// Service first.\n"
            "//\n"
            "// With a second paragraph.\n"
            "service Reader {\n"
            "  option (text.options.service_rule) = {\n"
            '    path: "/v1"\n'
        )
        whole = await pymicro("describe", "text", "text/v1/new.proto", "--address", server.address)
        assert whole.out.startswith("// The licence, detached.\n\n// About the syntax.\nsyntax = ")
        as_json = await pymicro("describe", "text", "Outer", "-o", "json", "--address", server.address)
        described = json.loads(as_json.out)
        assert (described["kind"], described["file"]) == ("message", "text/v1/new.proto")
        assert described["descriptor"]["options"]["[text.options.message_rule]"] == {"path": "p"}


async def test_what_is_hidden_is_found_by_its_name(pymicro: Commands) -> None:
    file = FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    async with DescribedServer([file], ["grpc.health.v1.Health"]) as server:
        result = await pymicro("describe", "x", "--address", server.address)
        assert result == Result(0, "", "nothing but grpc.health.v1.Health: --all shows these\n")
        result = await pymicro("describe", "x", "Health", "--address", server.address)
        assert "\nservice Health {\n" in result.out


async def test_a_servers_words_cannot_steer_the_terminal(pymicro: Commands) -> None:
    file = FileDescriptorProto(name="a\x1b[31m.proto", package="a", syntax="proto3")
    file.service.add(name="S")
    place = file.source_code_info.location.add(path=[6, 0], span=[1, 0, 1])
    place.leading_comments = " red \x1b[31m\n"
    async with DescribedServer([file], ["a.S"]) as server:
        result = await pymicro("describe", "a", "--address", server.address)
    assert result.out == "// a.S, in a\\x1b[31m.proto\n\n// red \\x1b[31m\nservice S {}\n"


async def test_without_reflection_it_says_what_else_there_is(pymicro: Commands) -> None:
    async with ShopServer(()) as server:
        env = {"MICRO_REGISTRY": "static", "MICRO_REGISTRY_ADDRESS": f"shop={server.address}"}
        result = await pymicro("describe", "shop", **env)
    assert result == Result(
        1,
        "",
        "pymicro describe: the server offers no reflection (neither v1 nor v1alpha); "
        "'pymicro list shop' shows what its registry record lists\n",
    )
    assert (await pymicro("describe", "shop")).code == 1


async def test_a_reader_that_goes_away_ends_it_quietly(
    pymicro: Commands, text_files: dict[str, FileDescriptorProto]
) -> None:
    async with DescribedServer(text_files.values(), ["text.v1.Reader"]) as server:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            argv = ("describe", "text", "--address", server.address)
            async with pymicro.started(*argv, stdout=writing) as process:
                _, err = await process.communicate()
        finally:
            os.close(writing)
    assert (process.returncode, err) == (141, b"")


def _without_money() -> list[FileDescriptorProto]:
    return [file for file in shop_files() if file.name != "shop/v1/money.proto"]


async def test_what_lacks_a_type_is_listed_described_and_called(pymicro: Commands) -> None:
    gap = (
        "shop/v1/shop.proto: no file defines shop.v1.Money "
        "(shop/v1/shop.proto imports shop/v1/money.proto, which is not to be had)\n"
    )
    async with ShopServer(described=_without_money()) as server:
        at = ("--address", server.address)
        listed = await pymicro("list", "shop", *at)
        assert (listed.code, listed.err) == (0, gap)
        assert "shop.v1.Shop/Buy " in listed.out
        described = await pymicro("describe", "shop", "Order", *at)
        assert (described.code, described.err) == (0, gap)
        assert "  repeated .shop.v1.Money extras = 5;\n" in described.out
        called = await pymicro("call", "shop", "Buy", '{"itemName": "hat", "amount": 2}', *at)
        assert (called.code, called.err) == (0, gap)
        assert json.loads(called.out)["text"] == "2 × hat"


async def test_a_file_with_another_path_than_its_imports_say_is_found_by_its_types(pymicro: Commands) -> None:
    moved = FileDescriptorProto()
    moved.CopyFrom(next(file for file in shop_files() if file.name == "shop/v1/money.proto"))
    moved.name = "protos/money.proto"
    placeholder = FileDescriptorProto(name="shop/v1/money.proto")
    for files in ([moved], [moved, placeholder]):
        async with ShopServer(described=[*_without_money(), *files]) as server:
            at = ("--address", server.address)
            result = await pymicro("describe", "shop", "Money", *at)
            assert (result.code, result.err) == (0, "")
            assert "message Money {" in result.out
            assert (await pymicro("call", "shop", "Buy", "{}", *at)).err == ""


async def test_why_a_service_is_not_described_is_the_same_everywhere(pymicro: Commands) -> None:
    files = []
    for file in shop_files():
        copy = FileDescriptorProto()
        copy.CopyFrom(file)
        files.append(copy)
        if file.name == "shop/v1/shop.proto":
            copy.message_type[0].field[0].number = copy.message_type[0].field[1].number
    reason = (
        "the server names shop.v1.Warehouse and does not describe it: shop/v1/shop.proto cannot be used: "
    )
    async with ShopServer(described=files) as server:
        at = ("--address", server.address)
        for argv in (("list", "shop"), ("describe", "shop")):
            result = await pymicro(*argv, *at)
            assert (result.code, f"\n{reason}" in result.err) == (0, True), result.err
        for argv in (("describe", "shop", "Warehouse"), ("call", "shop", "Warehouse.Restock")):
            result = await pymicro(*argv, *at)
            assert (result.code, result.err.startswith(f"pymicro {argv[0]}: {reason}")) == (1, True), (
                result.err
            )
