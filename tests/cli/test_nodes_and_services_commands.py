from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cli_support import Commands, Result, next_line

ADA = Node("greeter-1", "127.0.0.1:8001", "greeter", "1.0", {"zone": "a", "protocol": "grpc"})
BOB = Node("greeter-2", "127.0.0.1:8002", "greeter", "", {})
SHOP = Node("shop-1", "127.0.0.1:8003", "shop", "2.0", {})


@asynccontextmanager
async def registry_with(folder: str, *nodes: Node) -> AsyncIterator[LocalRegistry]:
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        for node in nodes:
            await registry.register(node)
        yield registry


async def test_nodes_are_a_table(pymicro: Commands, registry_folder: str) -> None:
    async with registry_with(registry_folder, ADA, BOB):
        result = await pymicro("nodes", "greeter")
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines() == [
            "ID         ADDRESS         VERSION",
            "greeter-1  127.0.0.1:8001  1.0",
            "greeter-2  127.0.0.1:8002  -",
        ]
        result = await pymicro("nodes", "greeter", "-o", "wide")
        assert result.out.splitlines() == [
            "ID         ADDRESS         VERSION  CALLED  METADATA",
            "greeter-1  127.0.0.1:8001  1.0      yes     protocol=grpc,zone=a",
            "greeter-2  127.0.0.1:8002  -        yes     -",
        ]


async def test_nodes_that_speak_something_else_are_left_out_and_wide_says_why(
    pymicro: Commands, registry_folder: str
) -> None:
    old = Node("old-1", "127.0.0.1:8004", "greeter", "0.9", {"protocol": "mucp"})
    news = Node("news-1", "127.0.0.1:8005", "greeter", "", {"topic": "news", "broker": "http"})
    async with registry_with(registry_folder, ADA, old, news) as registry:
        result = await pymicro("nodes", "greeter")
        assert result.code == 0
        assert result.out.splitlines() == [
            "ID         ADDRESS         VERSION",
            "greeter-1  127.0.0.1:8001  1.0",
        ]
        assert result.err == "2 nodes speak another protocol (mucp, pub/sub): -o wide shows which\n"
        result = await pymicro("nodes", "greeter", "-o", "wide")
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines() == [
            "ID         ADDRESS         VERSION  CALLED              METADATA",
            "greeter-1  127.0.0.1:8001  1.0      yes                 protocol=grpc,zone=a",
            "news-1     127.0.0.1:8005  -        no: speaks pub/sub  broker=http,topic=news",
            "old-1      127.0.0.1:8004  0.9      no: speaks mucp     protocol=mucp",
        ]
        result = await pymicro("nodes", "greeter", "-o", "json")
        assert {node["id"]: node["not_called"] for node in json.loads(result.out)} == {
            "greeter-1": None,
            "news-1": "speaks pub/sub",
            "old-1": "speaks mucp",
        }
        await registry.deregister(ADA)
        await registry.deregister(news)
        nobody = "no node of greeter to call: 1 node speaks another protocol (mucp)\n"
        assert await pymicro("nodes", "greeter") == Result(1, "", nobody)
        assert (await pymicro("nodes", "greeter", "-o", "wide")).err == nobody
        result = await pymicro("doctor", "greeter")
        assert result.code == 1
        assert "not called: 1 node speaks another protocol (mucp)" in result.out
        assert "8004" not in result.out.partition("not called")[2], "it was dialled"


async def test_watched_nodes_that_speak_something_else_are_shown_wide_only(
    pymicro: Commands, registry_folder: str
) -> None:
    old = Node("old-1", "127.0.0.1:8004", "greeter", "0.9", {"protocol": "mucp"})
    async with (
        registry_with(registry_folder, old) as registry,
        pymicro.started("nodes", "greeter", "-w") as plain,
        pymicro.started("nodes", "greeter", "-w", "-o", "wide") as wide,
    ):
        nobody = "no node of greeter to call: 1 node speaks another protocol (mucp)"
        assert await next_line(plain.stderr) == nobody
        line = await next_line(wide.stdout)
        assert line.endswith("+  old-1  127.0.0.1:8004  0.9  no: speaks mucp  protocol=mucp")
        assert await next_line(wide.stderr) == nobody
        await registry.register(BOB)
        assert (await next_line(plain.stdout)).endswith("+  greeter-2  127.0.0.1:8002  -")


async def test_nodes_are_an_array_for_programs(pymicro: Commands, registry_folder: str) -> None:
    async with registry_with(registry_folder, ADA, BOB):
        result = await pymicro("nodes", "greeter", "-o", "json")
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert json.loads(result.out) == [
        {
            "id": "greeter-1",
            "address": "127.0.0.1:8001",
            "service": "greeter",
            "version": "1.0",
            "metadata": {"zone": "a", "protocol": "grpc"},
            "not_called": None,
        },
        {
            "id": "greeter-2",
            "address": "127.0.0.1:8002",
            "service": "greeter",
            "version": "",
            "metadata": {},
            "not_called": None,
        },
    ]


async def test_a_service_without_nodes_is_exit_code_1(pymicro: Commands, registry_folder: str) -> None:
    nobody = f"no node of greter: registry local ({registry_folder}) lists 0 nodes"
    assert await pymicro("nodes", "greter") == Result(1, "", f"{nobody}\n")
    assert await pymicro("nodes", "greter", "-o", "json") == Result(1, "[]\n", f"{nobody}\n")
    async with registry_with(registry_folder, ADA):
        assert (await pymicro("nodes", "greter")).err == f"{nobody}; did you mean 'greeter'?\n"


async def test_a_selector_that_asks_no_registry_is_listed_too(pymicro: Commands) -> None:
    result = await pymicro("nodes", "greeter", "--selector", "static", "-o", "json")
    assert result.code == 0
    assert [node["address"] for node in json.loads(result.out)] == ["greeter:8080"]


async def test_metadata_cannot_steer_the_terminal(pymicro: Commands, registry_folder: str) -> None:
    evil = Node("e", "127.0.0.1:1", "evil", "\x1b[2J", {"a": "\x9b1m\nb"})
    async with registry_with(registry_folder, evil):
        for output in ("wide", "json"):
            out = (await pymicro("nodes", "evil", "-o", output)).out
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)
            assert out.count("\n") == (2 if output == "wide" else 1)


async def test_watched_nodes_are_a_line_for_each_change(pymicro: Commands, registry_folder: str) -> None:
    async with (
        registry_with(registry_folder, ADA) as registry,
        pymicro.started("nodes", "greeter", "-w") as process,
    ):

        async def change() -> str:
            line = await next_line(process.stdout)
            assert re.match(r"\d\d:\d\d:\d\d  ", line)
            return re.sub(" +", " ", line[10:])

        assert await change() == "+ greeter-1 127.0.0.1:8001 1.0"
        await registry.register(BOB)
        assert await change() == "+ greeter-2 127.0.0.1:8002 -"
        await registry.deregister(ADA)
        assert await change() == "- greeter-1 127.0.0.1:8001 1.0"
        await registry.deregister(BOB)
        assert await change() == "- greeter-2 127.0.0.1:8002 -"
        assert await next_line(process.stderr) == (
            f"no node of greeter: registry local ({registry_folder}) lists 0 nodes"
        )
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (130, b"", b"")


async def test_watched_nodes_are_an_array_a_change_for_programs(
    pymicro: Commands, registry_folder: str
) -> None:
    async with (
        registry_with(registry_folder) as registry,
        pymicro.started("nodes", "greeter", "--watch", "-o", "json") as process,
    ):

        async def ids() -> list[str]:
            return [node["id"] for node in json.loads(await next_line(process.stdout))]

        assert await ids() == []
        await registry.register(ADA)
        assert await ids() == ["greeter-1"]
        await registry.register(BOB)
        assert await ids() == ["greeter-1", "greeter-2"]


async def test_services_are_a_table(pymicro: Commands, registry_folder: str) -> None:
    async with registry_with(registry_folder, ADA, BOB, SHOP):
        result = await pymicro("services")
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines() == [
            "NAME     NODES  VERSIONS",
            "greeter  2      1.0",
            "shop     1      2.0",
        ]
        assert (await pymicro("services", "-o", "wide")).out.splitlines() == [
            "NAME     NODES  VERSIONS  ADDRESSES",
            "greeter  2      1.0       127.0.0.1:8001,127.0.0.1:8002",
            "shop     1      2.0       127.0.0.1:8003",
        ]
        # The selector in force has no list of services, and no say.
        result = await pymicro("services", "-o", "json", MICRO_SELECTOR="static")
        assert json.loads(result.out)[1] == {
            "name": "shop",
            "nodes": 1,
            "versions": ["2.0"],
            "addresses": ["127.0.0.1:8003"],
        }


async def test_no_services_is_no_failure(pymicro: Commands, registry_folder: str) -> None:
    nobody = f"no services: registry local ({registry_folder}) lists none\n"
    assert await pymicro("services") == Result(0, "", nobody)
    assert await pymicro("services", "-o", "json") == Result(0, "[]\n", nobody)


async def test_watched_services_are_a_line_for_each_change(pymicro: Commands, registry_folder: str) -> None:
    async with registry_with(registry_folder, ADA) as registry, pymicro.started("services", "-w") as process:

        async def change() -> str:
            return re.sub(" +", " ", (await next_line(process.stdout))[10:])

        assert await change() == "+ greeter 1 1.0"
        await registry.register(BOB)
        assert await change() == "~ greeter 2 1.0"
        await registry.deregister(ADA)
        await registry.deregister(BOB)
        line = await change()
        if line.startswith("~"):  # the two may be seen one after the other
            line = await change()
        assert line.startswith("- greeter")


async def test_a_registry_that_cannot_work_is_one_message(pymicro: Commands, registry_folder: str) -> None:
    for argv in (("services",), ("nodes", "greeter")):
        result = await pymicro(*argv, "--registry-address", "/proc/nobody/here")
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith(f"pymicro {argv[0]}: ")
        assert "/proc/nobody/here" in result.err
        assert "Traceback" not in result.err


@pytest.mark.parametrize("command", [("nodes", "greeter"), ("services",)])
async def test_a_wrong_setting_is_one_message(pymicro: Commands, command: tuple[str, ...]) -> None:
    result = await pymicro(*command, "--registry", "kubernets")
    assert result.code == 2
    assert result.err.startswith(f"pymicro {command[0]}: unknown registry 'kubernets' (known: ")
    result = await pymicro(*command, "-o", "yaml")
    assert result.code == 2
    assert "'yaml' is not one of 'table', 'wide', 'json'" in result.err


async def test_no_command_waits_for_ever_for_a_registry_that_is_away(pymicro: Commands) -> None:
    # Long enough for the first try to have failed, also where others compute.
    away = ("--registry=etcd", "--registry-address=127.0.0.1:1", "--client-request-timeout=3s")
    commands = ("nodes", "health", "list", "describe")
    for command, result in zip(
        commands,
        await asyncio.gather(*(pymicro(command, "greeter", *away) for command in commands)),
        strict=True,
    ):
        assert (result.code, result.out) == (1, "")
        assert (
            f"pymicro {command}: the nodes of greeter are not known after 3s: registry etcd "
            "(127.0.0.1:1) has not answered yet and failed with: " in result.err
        )
