"""Nothing that a command prints makes a terminal or a paste do anything, whoever wrote it."""

from __future__ import annotations

import asyncio
import json
import sys
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Endpoint, Node
from pymicro.settings.config import load
from tests.processes import clean_environment

# Clears the screen, sets the title and the clipboard, turns text around, hides and joins it.
EVIL = "a\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066\u200b\r\b\x7f\u2028z"
PATIENCE = 90.0

# Runs commands one after the other: starting Python for each would take most of the time.
SCRIPT = """
import json, sys
from pymicro.cli.app import _run
for argv in json.load(sys.stdin):
    print("$", ascii(argv), flush=True)
    print("= ", _run(argv), flush=True)
"""


def unsafe(text: str) -> list[str]:
    """What of `text` a terminal obeys, or does not show in its order."""
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return [
        repr(char)
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") and char not in "\n\t")
        or unicodedata.bidirectional(char) in turning
    ]


def _file() -> bytes:
    """A proto file whose comments are as bad as names cannot be."""
    file = FileDescriptorProto(name="evil.proto", package="evil", syntax="proto3")
    file.message_type.add(name="M").field.add(name="f", number=1, type=9, label=1, json_name=EVIL)
    service = file.service.add(name="S")
    service.method.add(name="Say", input_type=".evil.M", output_type=".evil.M")
    service.method.add(name="Refuse", input_type=".evil.M", output_type=".evil.M")
    for path in ([4, 0], [6, 0], [6, 0, 2, 0]):
        file.source_code_info.location.add(path=path, span=[0, 0, 0], leading_comments=f" {EVIL}\n")
    return file.SerializeToString()


class _Hostile(grpc.GenericRpcHandler):
    """Answers whatever it is asked, badly."""

    def service(self, details: Any) -> Any:
        if details.method.endswith("ServerReflectionInfo"):
            return grpc.stream_stream_rpc_method_handler(self._reflect)
        if details.method.endswith("/Say"):
            return grpc.unary_unary_rpc_method_handler(self._say)
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    async def _reflect(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for raw in requests:
            asked = ServerReflectionRequest.FromString(raw)
            answer = ServerReflectionResponse(original_request=asked)
            if asked.HasField("list_services"):
                for name in ("evil.S", f"evil.{EVIL}"):
                    answer.list_services_response.service.add(name=name)
            elif EVIL in asked.file_containing_symbol:
                answer.error_response.error_code = 13
                answer.error_response.error_message = EVIL
            else:
                answer.file_descriptor_response.file_descriptor_proto.append(_file())
            yield answer.SerializeToString()

    async def _say(self, raw: bytes, context: Any) -> bytes:
        text = EVIL.encode()
        return b"\x0a" + bytes([len(text)]) + text

    async def _refuse(self, raw: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, EVIL)


@asynccontextmanager
async def hostile_service(folder: str) -> AsyncIterator[None]:
    """A server that nobody should believe, in the registry under names that nobody should."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Hostile(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with LocalRegistry(load({"registry_address": [folder]}, environ={})) as registry:
            for service in ("greeter", EVIL):
                await registry.register(
                    Node(
                        EVIL,
                        f"127.0.0.1:{port}",
                        service,
                        EVIL,
                        {EVIL: EVIL, "topology.kubernetes.io/zone": EVIL, "protocol": "grpc"},
                        (Endpoint(f"{EVIL}.{EVIL}"),),
                    )
                )
            await registry.register(Node("x", "127.0.0.1:1", "other", "1", {"protocol": EVIL}))
            yield
    finally:
        await server.stop(None)


COMMANDS = [
    ["services"],
    ["services", "-o", "wide"],
    ["services", "-o", "json"],
    ["nodes", "greeter"],
    ["nodes", "greeter", "-o", "wide"],
    ["nodes", "greeter", "-o", "json"],
    ["nodes", "other", "-o", "wide"],
    ["nodes", EVIL],
    ["nodes", f"no{EVIL}"],
    ["list", "greeter"],
    ["list", "greeter", "-o", "json"],
    ["describe", "greeter"],
    ["describe", "greeter", "S"],
    ["describe", "greeter", EVIL],
    ["describe", "greeter", "-o", "json"],
    ["health", "greeter"],
    ["health", "greeter", "-o", "json"],
    ["doctor", "greeter"],
    ["doctor", EVIL],
    ["doctor", "greeter", "-o", "json"],
    ["call", "greeter", "evil.S/Say"],
    ["call", "greeter", "evil.S/Refuse"],
    ["--debug", "call", "greeter", "evil.S/Refuse"],
    ["call", "greeter", f"evil.S/{EVIL}"],
    ["call", "greeter", "evil.S/Say", json.dumps({EVIL: EVIL}, ensure_ascii=False)],
    ["bench", "greeter", "evil.S/Refuse", "--requests", "3"],
    ["config", "--server-name", EVIL],
    ["manifest", EVIL],
    [f"no{EVIL}"],
    ["call", f"--no{EVIL}"],
]


# These have nothing to show of it.
SILENT = [["nodes", "other", "-o", "wide"]]


async def test_no_command_prints_what_a_terminal_obeys(registry_folder: str) -> None:
    environment = clean_environment(MICRO_REGISTRY_ADDRESS=registry_folder, COLUMNS="80")
    async with hostile_service(registry_folder):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        out, _ = await asyncio.wait_for(process.communicate(json.dumps(COMMANDS).encode()), PATIENCE)
    assert process.returncode == 0, out.decode()[-2000:]
    shown = out.decode()
    answers = f"\n{shown}".split("\n$ ")[1:]
    bad = [answer for answer in answers if unsafe(answer)]
    assert not bad, "\n".join(f"{ascii(answer)[:600]}: {unsafe(answer)[:5]}" for answer in bad)
    assert len(answers) == len(COMMANDS)
    # The hostile texts are there, or this would prove nothing.
    silent = [answer for answer in answers if "owned" not in answer.partition("\n")[2]]
    assert len(silent) <= len(SILENT), "\n".join(silent)
