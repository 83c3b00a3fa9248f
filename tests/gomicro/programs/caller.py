"""A client that reads commands and writes results, lines of JSON both; peer/commands.go is the same in Go.

All settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from grpc.aio import EOF
from peer.v1 import peer_pb2 as pb
from peer.v1 import peer_pb2_grpc

import pymicro


class Caller:
    def __init__(self, client: pymicro.Client) -> None:
        self._client = client

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["op"]:
            case "call":
                return await self._call(command)
            case "nodes":
                nodes = await self._client.nodes(command["service"])
                return {"nodes": [node.to_json() for node in nodes]}
            case "watch":
                await self._watch(command)
        raise ValueError(f"no such command: {command['op']}")

    async def _watch(self, command: dict[str, Any]) -> None:
        """Say each node set, for ever."""
        async with aclosing(self._client.watch_nodes(command["service"])) as sets:  # type: ignore[type-var]
            async for nodes in sets:
                say({"id": command["id"], "event": [node.to_json() for node in nodes]})

    async def _call(self, command: dict[str, Any]) -> dict[str, Any]:
        answers: list[pb.Answer] = []
        result: dict[str, Any] = {}
        try:
            async for answer in self._exchange(command):
                answers.append(answer)  # noqa: PERF401 – those before an error are kept
        except pymicro.RpcError as exc:
            result["error"] = {
                "type": type(exc).__name__,
                "grpc": exc.code().name,
                "detail": exc.details(),
                "id": exc.micro_id,
                "code": exc.micro_code,
                "from_peer": exc.from_peer,
                "attempts": exc.attempts,
            }
        result["answers"] = [MessageToDict(answer, preserving_proto_field_name=True) for answer in answers]
        return result

    async def _exchange(self, command: dict[str, Any]) -> AsyncIterator[pb.Answer]:
        stub = peer_pb2_grpc.PeerStub(self._client.channel(command["service"]))
        asks = [ParseDict({**command.get("ask", {}), "text": text}, pb.Ask()) for text in command["texts"]]
        milliseconds = command.get("timeout_ms")
        given = {
            "timeout": milliseconds / 1000 if milliseconds else None,
            "metadata": tuple(command.get("metadata", {}).items()),
        }
        match command["shape"]:
            case "unary":
                yield await stub.Hello(asks[0], **given)
            case "server stream":
                async for answer in stub.Feed(asks[0], **given):
                    yield answer
            case "client stream":
                yield await stub.Gather(iter(asks), **given)
            case "bidi":
                async for answer in self._converse(stub.Talk(**given), asks):
                    yield answer

    async def _converse(self, call: Any, asks: list[pb.Ask]) -> AsyncIterator[pb.Answer]:
        """Wait for each answer before the next is said."""
        for ask in asks:
            await call.write(ask)
            yield await call.read()
        await call.done_writing()
        while (answer := await call.read()) is not EOF:
            yield answer


def say(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with pymicro.Client(argv=[]) as client, asyncio.TaskGroup() as tasks:
        caller = Caller(client)

        async def carry_out(command: dict[str, Any]) -> None:
            begun = time.monotonic()
            result = await caller.obey(command)
            say({"id": command["id"], "took_ms": int((time.monotonic() - begun) * 1000), **result})

        begun = [tasks.create_task(carry_out(json.loads(line))) async for line in reader]
        for task in begun:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
