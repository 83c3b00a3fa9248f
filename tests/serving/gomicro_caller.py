"""Calls as go-micro 1.18's client puts them on the wire (seen with a real one; it runs in tests/gomicro)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import json_format

from pymicro.rpc.wire.status import DETAILS_KEY
from tests.serving.serving import KINDS, MESSAGES, Running

NAMES = ("Import", "Watch", "Count", "Talk")
PROTOBUF = "application/grpc+proto"
JSON = "application/json"


def headers(content_type: str = PROTOBUF, timeout: str = "5000000000") -> tuple[tuple[str, str], ...]:
    """What every call of a Go service's client carries."""
    return (
        ("micro-from-service", "go.micro.srv.caller"),
        ("timeout", timeout),
        ("x-content-type", content_type),
    )


@dataclass
class GoCaller:
    """Calls Keeper's methods under a registry name, in one codec, and takes nothing but bytes.

    Attributes:
        prefix: The name the service is registered under.
    """

    running: Running
    content_type: str = PROTOBUF
    prefix: str = "go.micro.srv.zoo."
    metadata: tuple[tuple[str, str], ...] | None = None

    @property
    def _json(self) -> bool:
        return "json" in self.content_type.lower()

    async def raw(
        self, name: str, *requests: bytes, path: str = "", timeout: float | None = None, ends: bool = True
    ) -> list[bytes]:
        """The answers to these requests.

        go-micro's client makes one kind of stream for all three. The end of the requests
        is told for methods that stream them, never for server streaming.

        Args:
            ends: Whether it is told at all; not, where the call may have ended by then (see `Running.ask`).
        """
        path = path or f"/{self.prefix}Keeper/{name}"
        metadata = headers(self.content_type) if self.metadata is None else self.metadata
        channel = self.running.channel
        if KINDS[name] == "unary_unary":
            (request,) = requests
            call = channel.unary_unary(path)(request, metadata=metadata, timeout=timeout or 20)
            return [await call]
        call = channel.stream_stream(path)(metadata=metadata, timeout=timeout)
        async with asyncio.timeout(20):
            for request in requests:
                await call.write(request)
            if ends and KINDS[name].startswith("stream"):
                await call.done_writing()
            answers = []
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(answer)
            return answers

    async def ask(self, name: str, *words: str) -> list[str]:
        """Call with animals of these names; the names (or the count) answered."""
        request, response = MESSAGES[name]
        requests = [self._dump(request(name=word)) for word in words or ("ant",)]
        answers = [self._load(response, answer) for answer in await self.raw(name, *requests)]
        return [str(answer.count) if name == "Count" else answer.name for answer in answers]

    async def failure(self, name: str, *requests: bytes, early: bool = False, **options: Any) -> Failure:
        """The error that one request without content, or these, end with.

        Args:
            early: Whether the call may end before requests of a stream are read. None are sent then.
        """
        empty = b"{}" if self._json else b""
        sent = requests or (() if early and name in ("Count", "Talk") else (empty,))
        try:
            answers = await self.raw(name, *sent, ends=not early, **options)
        except grpc.aio.AioRpcError as exc:
            return Failure(exc)
        raise AssertionError(f"{name} answered {answers}")

    def _dump(self, message: Any) -> bytes:
        if self._json:
            return json_format.MessageToJson(message).encode()
        return bytes(message.SerializeToString())

    def _load(self, kind: Any, raw: bytes) -> Any:
        if self._json:
            return json_format.Parse(raw.decode(), kind())
        return kind.FromString(raw)


class Failure:
    """An error as Go's client reads it."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        self.trailers = dict(tuple(error.trailing_metadata() or ()))

    @property
    def json(self) -> dict[str, Any]:
        """go-micro's error; there are no rich details beside it."""
        assert DETAILS_KEY not in self.trailers
        found = json.loads(self.text)
        assert list(found) == ["id", "code", "detail", "status"]
        return dict(found)
