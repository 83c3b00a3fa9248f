"""Completion as the shells ask for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Endpoint, Node
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands, Result
from tests.shop import V1, ShopServer

# The same program, that waits for answers as long as a busy machine needs, and not for a second.
PATIENT = f"""
from pymicro.cli import completing, main
completing._PATIENCE = {PATIENCE}
main()
"""

RECORDED = (Endpoint("Greeter.SayHello"), Endpoint("Greeter.Chat"))


@asynccontextmanager
async def registry_in(folder: str, *nodes: Node) -> AsyncIterator[None]:
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        for node in nodes:
            await registry.register(node)
        yield


async def completed(pymicro: Commands, line: str) -> list[str]:
    """What bash is offered at the end of `line`, in which it has put spaces around = and :."""
    words = line.split(" ")
    env = {"_PYMICRO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = await pymicro(**env)
    assert (result.code, result.err) == (0, ""), line
    return result.out.splitlines()


async def offers(pymicro: Commands, *expected: tuple[str, list[str]]) -> None:
    found = await asyncio.gather(*(completed(pymicro, line) for line, _ in expected))
    assert dict(zip([line for line, _ in expected], found, strict=True)) == {
        line: [f"plain,{value}" for value in values] or [""] for line, values in expected
    }


async def test_commands_and_flags_are_completed(pymicro: Commands) -> None:
    await offers(
        pymicro,
        ("pymicro de", ["describe"]),
        ("pymicro nodes --registry-a", ["--registry-address", "--registry-advertise"]),
        ("pymicro nodes --registry = lo", ["local"]),
        ("pymicro nodes --log-level =", ["debug", "info", "warning", "error"]),
        ("pymicro nodes -o w", ["wide"]),
        ("pymicro completion z", ["zsh"]),
        ("pymicro nodes --client-retries ", []),
    )
    assert await completed(pymicro, "pymicro run examples/s") == ["file,examples/s"]
    assert await completed(pymicro, "pymicro manifest ") == ["file,"]


async def test_names_come_from_the_registry(pymicro: Commands, registry_folder: str) -> None:
    pymicro.program = ("-c", PATIENT)
    nodes = [
        Node("a", "127.0.0.1:1", "greeter", endpoints=RECORDED),
        Node("b", "127.0.0.1:1", "greedy"),
        # Nobody who registers a service may write a command into somebody's shell.
        Node("c", "127.0.0.1:1", "gr$(reboot)"),
    ]
    async with registry_in(registry_folder, *nodes):
        await offers(
            pymicro,
            *((f"pymicro {name} gre", ["greedy", "greeter"]) for name in ("nodes", "doctor", "health")),
            ("pymicro call gr", ["greedy", "greeter"]),
            ("pymicro describe greet", ["greeter"]),
            ("pymicro list greeter ", []),
            # No connection is made: nothing listens there.
            ("pymicro call greeter ", ["Greeter.Chat", "Greeter.SayHello"]),
            ("pymicro call greeter Greeter/S", ["Greeter/SayHello"]),
            ("pymicro call greeter Say", ["SayHello"]),
            ("pymicro nodes --registry-address = /nowhere/at/all gr", []),
        )


async def test_what_the_record_does_not_say_is_asked_of_a_server(
    pymicro: Commands, registry_folder: str
) -> None:
    pymicro.program = ("-c", PATIENT)
    async with ShopServer((V1,)) as server:
        _, port = server.address.split(":")
        async with registry_in(registry_folder, Node("a", server.address, "shop")):
            await offers(
                pymicro,
                ("pymicro call shop Warehouse.", ["Warehouse.Find", "Warehouse.Restock"]),
                ("pymicro call shop shop.v1.Shop/B", ["shop.v1.Shop/Buy"]),
                ("pymicro describe shop R", ["Receipt"]),
                ("pymicro describe shop shop.v1.Shop.F", ["shop.v1.Shop.Find"]),
                # 127.0.0.1:PORT, as bash hands it on.
                (f"pymicro call x --address 127.0.0.1 : {port} Tr", ["Track"]),
                ("pymicro call nobody ", []),
            )


async def test_a_server_that_does_not_answer_holds_nobody_up(pymicro: Commands) -> None:
    async def hang(requests: Any, context: Any) -> None:
        await asyncio.Event().wait()

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(hang)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # Longer than a command of these tests may take.
    slow = "--client-request-timeout = 10m"
    try:
        await offers(pymicro, (f"pymicro call x {slow} --address 127.0.0.1 : {port} ", []))
    finally:
        await server.stop(0)


async def test_nonsense_is_silence(pymicro: Commands) -> None:
    for env in (
        {"_PYMICRO_COMPLETE": "bash_complete", "COMP_WORDS": "pymicro nope x", "COMP_CWORD": "2"},
        {"_PYMICRO_COMPLETE": "bash_complete"},
        {"_PYMICRO_COMPLETE": "tcsh_complete"},
    ):
        assert await pymicro(**env) == Result(1, "", "")


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", "complete -o nosort -F _pymicro_completion pymicro"),
        ("zsh", "compdef _pymicro_completion pymicro"),
        ("fish", "complete --no-files --command pymicro"),
    ],
)
async def test_the_scripts_are_clicks(pymicro: Commands, shell: str, words: str) -> None:
    result = await pymicro("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert words in result.out
    assert f"_PYMICRO_COMPLETE={shell}_complete" in result.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
async def test_a_real_bash_completes(registry_folder: str) -> None:
    script = """
        eval "$(pymicro completion bash)"
        complete -p pymicro
        COMP_WORDS=(pymicro call greeter Greeter.S) COMP_CWORD=3
        _pymicro_completion pymicro
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MICRO_REGISTRY_ADDRESS": registry_folder}
    async with registry_in(registry_folder, Node("a", "127.0.0.1:1", "greeter", endpoints=RECORDED)):
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "--norc", "-c", script],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "Greeter.SayHello"
    assert "-F _pymicro_completion pymicro" in done.stdout
    assert done.stderr == ""
