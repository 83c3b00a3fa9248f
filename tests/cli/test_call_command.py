from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands, Result, next_line, unhurried
from tests.described import DescribedServer, compile_protos
from tests.shop import PROTOS, V1, V1ALPHA, ShopServer

HAT = '{"itemName": "hat", "amount": 2}'


async def buy(pymicro: Commands, server: ShopServer, order: str, *more: str, **options: str) -> Result:
    return await pymicro("call", "shop", "Shop.Buy", order, "--address", server.address, *more, **options)


async def test_a_reply_in_a_pipe_is_one_line_of_json(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, HAT)
    assert result == Result(0, '{"text":"2 × hat","number":"2"}\n', "")


async def test_output_is_ascii_where_it_cannot_be_more(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, HAT, PYTHONIOENCODING="ascii")
    assert result == Result(0, '{"text":"2 \\u00d7 hat","number":"2"}\n', "")


async def test_a_reply_on_a_terminal_is_indented(pymicro: Commands) -> None:
    ours, theirs = pty.openpty()
    try:
        async with ShopServer() as server:
            argv = ("call", "shop", "Shop/Buy", HAT, "--address", server.address)
            async with pymicro.started(*argv, stdout=theirs) as process:
                assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        assert os.read(ours, 1 << 16).decode() == '{\r\n  "text": "2 × hat",\r\n  "number": "2"\r\n}\r\n'
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("method", ["Buy", "Shop.Buy", "shop.v1.Shop/Buy", "shop.v1.Shop.Buy"])
@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_a_method_is_found_by_reflection(pymicro: Commands, method: str, version: str) -> None:
    async with ShopServer((version,)) as server:
        result = await pymicro("call", "shop", method, "--address", server.address)
    assert result == Result(0, '{"text":"0 × "}\n', "")


async def test_a_services_own_method_is_meant_and_not_that_of_health(
    pymicro: Commands, tmp_path: Path
) -> None:
    (tmp_path / "ward.proto").write_text(
        'syntax = "proto3"; service Ward { rpc Watch(Bed) returns (Bed); } message Bed { int32 number = 1; }'
    )
    files = compile_protos(tmp_path, tmp_path / "set.pb", ["ward.proto"], comments=False)
    health = FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health)
    services = ["Ward", "grpc.health.v1.Health"]
    async with DescribedServer([*files.values(), health], services) as server:
        # It is called with its own message, and only described.
        result = await pymicro("call", "ward", "Watch", '{"number": 3}', "--address", server.address)
        assert result == Result(64 + 12, "", "UNIMPLEMENTED: Method not found!\n")
        # Those of Health are there where no other has the name.
        result = await pymicro("call", "ward", "Check", '{"service": "x"}', "--address", server.address)
        assert result.code == 64 + 12


async def test_a_wrong_service_suggests_the_near_one(pymicro: Commands, registry_folder: str) -> None:
    config = load({"registry_address": registry_folder}, environ={})
    async with LocalRegistry(config) as registry:
        await registry.register(Node("greeter-1", "127.0.0.1:1", "greeter", "", {}))
        result = await pymicro("call", "greter", "SayHello")
        assert (result.code, result.out) == (64 + 14, "")
        waited, error = result.err.splitlines()[:2]
        assert re.match(r"waiting up to 1\.\ds for a node of greter: registry local \(", waited)
        assert error.startswith("UNAVAILABLE: no node for greter: ")
        assert error.endswith("; did you mean 'greeter'?")
        assert len(result.err.splitlines()) == 2
        # One that is there and cannot be reached is not mistaken for another.
        result = await pymicro("call", "greeter", "SayHello")
        assert result.code == 64 + 14
        assert "did you mean" not in result.err


async def test_a_wrong_method_suggests_the_near_one(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await pymicro("call", "shop", "Shop.Bui", "--address", server.address)
        assert result.code == 2
        assert result.err == (
            "pymicro call: service shop.v1.Shop has no method 'Bui'; did you mean shop.v1.Shop/Buy?\n"
        )
        assert result.out == ""
        result = await pymicro("call", "shop", "Sop.Buy", "--address", server.address)
        assert (result.code, result.out) == (2, "")
        assert "there is no service 'Sop'; did you mean shop.v1.Shop/Buy?" in result.err


async def test_json_that_is_wrong_is_told_with_its_place(pymicro: Commands) -> None:
    (pymicro.cwd / "order.json").write_text('{\n  "itemName": "hat"\n  "amount": 1\n}\n')
    async with ShopServer() as server:
        result = await buy(pymicro, server, "@order.json")
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("pymicro call: order.json, line 3, column 3: this is no JSON: ")
        result = await buy(pymicro, server, '{"itemNam": "hat"}')
        assert result.code == 2
        assert (
            "the JSON argument: shop.v1.Order has no field 'itemNam'; did you mean 'itemName'?" in result.err
        )
        result = await buy(pymicro, server, "{} {}")
        assert (result.code, result.err) == (
            2,
            "pymicro call: shop.v1.Shop/Buy takes one request, the JSON argument has 2\n",
        )
        result = await buy(pymicro, server, "-")
        assert (result.code, result.err) == (
            2,
            "pymicro call: shop.v1.Shop/Buy takes one request, stdin has none\n",
        )
        result = await buy(pymicro, server, "@missing.json")
        assert (result.code, result.err) == (
            2,
            "pymicro call: cannot read missing.json: No such file or directory\n",
        )
        assert server.metadata == []  # nothing of it was called


async def test_a_request_comes_from_a_file_or_stdin_too(pymicro: Commands) -> None:
    (pymicro.cwd / "order.json").write_text(HAT)
    async with ShopServer() as server:
        assert (await buy(pymicro, server, "@order.json")).out == '{"text":"2 × hat","number":"2"}\n'
        assert (await buy(pymicro, server, "-", stdin=HAT)).out == '{"text":"2 × hat","number":"2"}\n'


async def test_a_stream_of_replies_is_printed_as_it_comes(pymicro: Commands) -> None:
    async with ShopServer() as server:
        order = '{"itemName": "wait", "amount": 2}'
        async with pymicro.started("call", "shop", "Track", order, "--address", server.address) as process:
            assert await next_line(process.stdout) == '{"text":"wait","number":"1"}'
            server.more.set()
            assert await next_line(process.stdout) == '{"text":"wait","number":"2"}'
            assert await process.wait() == 0


async def test_a_reply_that_has_no_json_form_is_shown_as_it_is_and_the_rest_comes(pymicro: Commands) -> None:
    async with ShopServer() as server:
        order = '{"itemName": "odd", "amount": 3}'
        result = await pymicro("call", "shop", "Track", order, "--address", server.address)
    assert result.code == 0, result.err
    assert [json.loads(line) for line in result.out.splitlines()] == [
        {"text": "odd", "number": "1"},
        {"text": "odd", "number": "2", "took": {"seconds": "1152921504606846976"}},
        {"text": "odd", "number": "3"},
    ]
    assert result.err.startswith("no JSON form, shown as it is: took (")
    assert len(result.err.splitlines()) == 1


async def test_a_stream_of_requests_is_sent_as_it_comes(pymicro: Commands) -> None:
    async with (
        ShopServer() as server,
        pymicro.started("call", "shop", "Haggle", "-", "--address", server.address) as process,
    ):
        assert process.stdin is not None
        for amount in (1, 2):
            process.stdin.write(f'{{"amount": {amount}}}\n'.encode())
            assert await next_line(process.stdout) == f'{{"text":"not for {amount}"}}'
        process.stdin.write(b'{"amount": 3} {"amount": 4}')
        process.stdin.close()
        assert await next_line(process.stdout) == '{"text":"not for 3"}'
        assert await next_line(process.stdout) == '{"text":"not for 4"}'
        assert await process.wait() == 0


async def test_several_documents_make_one_stream(pymicro: Commands) -> None:
    (pymicro.cwd / "orders.json").write_text('{"itemName": "a"}\n{\n"itemName": "b"\n} {"itemName": "c"}')
    async with ShopServer() as server:
        result = await pymicro("call", "shop", "Collect", "@orders.json", "--address", server.address)
        assert result == Result(0, '{"text":"a, b, c"}\n', "")
        result = await pymicro("call", "shop", "Collect", "-", "--address", server.address)
        assert result == Result(0, "{}\n", "")


async def test_a_bad_document_in_a_stream_ends_the_call(pymicro: Commands) -> None:
    async with (
        ShopServer() as server,
        pymicro.started("call", "shop", "Haggle", "-", "--address", server.address) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b'{"amount": 1}\n')
        assert await next_line(process.stdout) == '{"text":"not for 1"}'
        process.stdin.write(b'{"amount": "x"}\n')
        assert await next_line(process.stderr) == (
            'pymicro call: stdin, line 2: amount: expected a whole number, found "x"'
        )
        assert await process.wait() == 2


async def test_a_call_that_the_server_ends_early_does_not_wait_for_stdin(pymicro: Commands) -> None:
    async with (
        ShopServer() as server,
        pymicro.started("call", "shop", "Haggle", "-", "--address", server.address) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b'{"itemName": "enough"}\n')  # and stays open
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_status_is_an_exit_code_and_a_line_the_terminal_survives(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, '{"itemName": "nothing"}')
    assert result == Result(64 + 5, "", "NOT_FOUND: no such item\\x1b[31m\n")


async def test_an_error_of_a_go_micro_server_is_its_status_and_its_own_number_below(
    pymicro: Commands,
) -> None:
    async with ShopServer() as server:
        own = await buy(pymicro, server, '{"itemName": "teapot"}')
        known = await buy(pymicro, server, '{"itemName": "sold"}')
    assert own == Result(64 + 2, "", "UNKNOWN: no coffee\\x1b[31m\n  go-micro error 418 of shop\n")
    assert known == Result(64 + 8, "", "RESOURCE_EXHAUSTED: come back\n  go-micro error 429\n")


async def test_rich_details_stand_below_the_status(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, '{"itemName": "rich"}')
    assert result.code == 64 + 9
    assert result.err.splitlines() == [
        "FAILED_PRECONDITION: sold out",
        '  google.rpc.ErrorInfo {"reason":"SOLD_OUT","domain":"shop"}',
        '  shop.v1.Gift {"from":"Eve"}',
    ]


async def test_an_any_is_resolved_by_reflection_and_else_shown_raw(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, '{"itemName": "gift", "note": {"@type": "x/shop.v1.Gift"}}')
    assert json.loads(result.out)["notes"] == [
        {"@type": "x/shop.v1.Gift", "from": "Bob"},
        {"@type": "x/nobody.knows.It", "@value": "AQI="},
        {"@type": "x/google.protobuf.Any", "value": {"@type": "x/nobody.knows.It", "@value": "AQI="}},
    ]
    assert (result.code, result.err) == (0, "")


async def test_an_any_of_a_type_nobody_knows_cannot_be_sent(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, '{"note": {"@type": "x/nobody.knows.It"}}')
    assert (result.code, result.out) == (2, "")
    assert result.err == "pymicro call: the JSON argument: unknown message type: nobody.knows.It\n"


async def test_metadata_goes_along(pymicro: Commands) -> None:
    async with ShopServer() as server:
        flags = ("-H", "X-Who: me: myself", "--header", "blob-bin:AP8", "-H", "x-who:again")
        assert (await buy(pymicro, server, HAT, *flags)).code == 0
        (metadata,) = server.metadata
        assert [value for key, value in metadata if key == "x-who"] == ["me: myself", "again"]
        assert ("blob-bin", b"\x00\xff") in metadata


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("no colon", "is not of the form key:value"),
        ("k y:v", "is not of the form key:value"),
        ("grpc-timeout:1", "gRPC's own"),
        ("x-bin:!", "base64"),
        ("x:é", "printable ASCII"),
    ],
)
async def test_metadata_that_cannot_be_sent_is_refused(pymicro: Commands, header: str, words: str) -> None:
    result = await pymicro("call", "shop", "Buy", "-H", header, "--address", "127.0.0.1:1")
    assert (result.code, result.out) == (2, "")
    assert words in result.err


async def test_verbose_tells_node_metadata_and_time_on_stderr(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, HAT, "-v")
        assert result.out == '{"text":"2 × hat","number":"2"}\n'
        lines = result.err.splitlines()
        assert lines[:-1] == [
            f"node: {server.address}",
            "initial metadata:",
            "  shelf: 7",
            "  stamp-bin: AP8=",
            "trailing metadata:",
            "  till: 2",
        ]
        assert lines[-1].startswith("time: ")
        result = await buy(pymicro, server, '{"itemName": "nothing"}', "-v")
        assert result.err.splitlines()[-1] == "NOT_FOUND: no such item\\x1b[31m"


async def test_the_timeout_ends_a_call(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(pymicro, server, '{"itemName": "slow"}', "--timeout", "700ms")
        assert result.code == 64 + 4
        assert result.err.startswith("DEADLINE_EXCEEDED: ")
        # The setting is what counts without the flag, and 0 is no limit at all.
        result = await buy(pymicro, server, '{"itemName": "slow"}', MICRO_CLIENT_REQUEST_TIMEOUT="300ms")
        assert result.code == 64 + 4
        server.more.clear()
        argv = (
            "call",
            "shop",
            "Shop.Buy",
            '{"itemName": "slow"}',
            "--address",
            server.address,
            "--timeout=0",
        )
        async with pymicro.started(*argv, MICRO_CLIENT_REQUEST_TIMEOUT="300ms") as process:
            await asyncio.wait_for(server.more.wait(), PATIENCE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 1)
    result = await pymicro("call", "shop", "Buy", "--timeout", "soon")
    assert (result.code, result.err) == (
        2,
        "pymicro call: --timeout: 'soon' is no duration (like 500ms, 5s, 1m30s)\n",
    )


async def test_an_address_nobody_listens_on_is_unavailable(pymicro: Commands) -> None:
    result = await pymicro("call", "shop", "Shop.Buy", "--address", "127.0.0.1:1", "--timeout", "2s")
    assert (result.code, result.out) == (64 + 14, "")
    assert result.err.startswith("UNAVAILABLE: ")
    assert "Traceback" not in result.err
    result = await pymicro("call", "shop", "Shop.Buy", "--address", "nowhere")
    assert (result.code, result.err) == (2, "pymicro call: --address: 'nowhere' has no port (host:port)\n")


async def test_an_address_counts_whatever_the_settings_say(pymicro: Commands) -> None:
    async with ShopServer() as server:
        result = await buy(
            pymicro,
            server,
            HAT,
            "--registry-address=shop=127.0.0.1:1",
            MICRO_REGISTRY="static",
            MICRO_SELECTOR="dns",
        )
    assert result.code == 0


async def test_a_flag_wins_over_the_environment(pymicro: Commands) -> None:
    async with ShopServer() as server:
        argv = ("call", "shop", "Shop.Buy", HAT)
        flags = ("--registry_address", f"shop={server.address}", "--registry=static")
        result = await pymicro(*argv, *flags, MICRO_REGISTRY="local")
        assert result == Result(0, '{"text":"2 × hat","number":"2"}\n', "")


async def test_a_service_without_nodes_is_unavailable(pymicro: Commands) -> None:
    result = await pymicro(
        *("call", "shop", "Buy", "--registry=static", "--client-first-wait=0"),
        MICRO_REGISTRY_ADDRESS="other=127.0.0.1:1",
    )
    assert (result.code, result.out) == (64 + 14, "")
    assert result.err.startswith("UNAVAILABLE: ")
    assert "shop" in result.err


async def test_a_server_without_reflection_is_called_with_its_proto(pymicro: Commands) -> None:
    async with ShopServer(()) as server:
        result = await buy(pymicro, server, HAT)
        assert result.code == 1
        assert result.err == (
            "pymicro call: the server offers no reflection (neither v1 nor v1alpha); "
            "name its proto files with --proto\n"
        )
        proto = ("--proto", "shop/v1/shop.proto", "-I", str(PROTOS))
        assert (await buy(pymicro, server, HAT, *proto)).out == '{"text":"2 × hat","number":"2"}\n'
        (pymicro.cwd / "alone.proto").write_text(
            'syntax = "proto3"; service Alone { rpc Nil(M) returns (M); } message M {}'
        )
        result = await pymicro("call", "x", "Nil", "--proto", "alone.proto", "--address", server.address)
        assert result.code == 64 + 12
        result = await buy(pymicro, server, HAT, "--proto", "alone.proto")
        assert (result.code, result.err) == (
            2,
            "pymicro call: there is no service 'Shop'; there are:\n  Alone/Nil\n",
        )


async def test_a_proto_that_protoc_refuses_is_told_in_its_words(pymicro: Commands) -> None:
    (pymicro.cwd / "bad.proto").write_text('syntax = "proto3";\nmessage M { strin a = 1; }\n')
    result = await pymicro("call", "shop", "Buy", "--proto", "bad.proto", "--address", "127.0.0.1:1")
    assert result.code == 2
    assert 'bad.proto:2:13: "strin" is not defined.' in result.err
    result = await pymicro("call", "shop", "Buy", "--proto", "none.proto", "--address", "127.0.0.1:1")
    assert result.code == 2
    assert "none.proto" in result.err


async def test_without_grpcio_tools_the_extra_is_named(pymicro: Commands, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['grpc_tools'] = None")
    result = await pymicro("call", "shop", "Buy", "--proto", "a.proto", PYTHONPATH=str(tmp_path))
    assert (result.code, result.err) == (
        2,
        "pymicro call: --proto needs grpcio-tools: pip install 'pymicro-grpc[tools]'\n",
    )


async def test_an_interrupt_cancels_the_call_and_exits_130(pymicro: Commands) -> None:
    async with ShopServer() as server:
        argv = ("call", "shop", "Shop.Buy", '{"itemName": "slow"}', "--address", server.address)
        async with pymicro.started(*argv) as process:
            await asyncio.wait_for(server.more.wait(), PATIENCE)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
            assert (process.returncode, out, unhurried(err.decode())) == (130, b"", "")
            await asyncio.wait_for(server.cancelled.wait(), PATIENCE)


async def test_a_reader_that_goes_away_ends_the_command_quietly(pymicro: Commands) -> None:
    async with ShopServer() as server:
        read, write = os.pipe()
        argv = ("call", "shop", "Track", '{"itemName": "x", "amount": 100000}', "--address", server.address)
        async with pymicro.started(*argv, stdout=write) as process:
            os.close(write)
            assert await asyncio.to_thread(os.read, read, 1)
            os.close(read)
            _, err = await process.communicate()
            assert (process.returncode, unhurried(err.decode())) == (141, "")


async def test_a_traceback_is_shown_only_where_it_is_asked_for(pymicro: Commands) -> None:
    argv = ("call", "shop", "Buy", "@missing.json")
    assert "Traceback" not in (await pymicro(*argv)).err
    for result in (await pymicro("--debug", *argv), await pymicro(*argv, "--debug")):
        assert result.code == 2
        assert "Traceback" in result.err
        assert result.err.endswith("pymicro call: cannot read missing.json: No such file or directory\n")


async def test_stdin_that_is_no_text_is_refused(pymicro: Commands) -> None:
    async with (
        ShopServer() as server,
        pymicro.started("call", "shop", "Collect", "-", "--address", server.address) as process,
    ):
        _, err = await process.communicate(b'{"itemName": "\xff"}')
        assert (process.returncode, err[:39]) == (2, b"pymicro call: stdin is no UTF-8 text: i")
