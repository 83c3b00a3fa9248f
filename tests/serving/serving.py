"""A server on a real socket, and calls to it over a bare grpc.aio channel; or both in memory.

Over `fast` the server is that one, and the channel still grpc.aio's: it says what a foreign client sees.
With `--client-transport fast` it is a bare one over that transport.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from pymicro.base.recorder import ServerRecord
from pymicro.serving.server import Server
from pymicro.serving.yielded import Yielded
from pymicro.settings.config import Config
from tests.fakes.server_transport import MemoryChannel, MemoryTransport
from tests.protos import zoo_pb2 as pb
from tests.transports import ENDS

ZOO = "/pymicro.tests.zoo.Keeper"
MESSAGES = {
    "Import": (pb.Animal, pb.Animal),
    "Watch": (pb.Query, pb.Animal),
    "Count": (pb.Animal, pb.Tally),
    "Talk": (pb.Animal, pb.Animal),
}
KINDS = {
    "Import": "unary_unary",
    "Watch": "unary_stream",
    "Count": "stream_unary",
    "Talk": "stream_stream",
}


# The transport of `serving`; conftest.py sets it.
TRANSPORT = "grpc"


@dataclass
class Running:
    """A server that serves, and a channel to it."""

    server: Server
    channel: Any
    port: int

    def called_by(self, user_agent: str) -> Any:
        """Another channel, whose calls say that they come from this program."""
        if isinstance(self.channel, MemoryChannel):
            return MemoryChannel(self.channel.transport, ("user-agent", user_agent))
        options = [("grpc.primary_user_agent", user_agent)]
        if ENDS.client == "fast" and self.channel.__class__.__name__ == "FastChannel":
            return type(self.channel)(f"127.0.0.1:{self.port}", options)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def rpc(self, name: str) -> Any:
        """The multi-callable of one of Keeper's rpcs."""
        request, response = MESSAGES[name]
        make = getattr(self.channel, KINDS[name])
        return make(
            f"{ZOO}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    async def ask(self, name: str, *words: str, ends: bool = True, **options: Any) -> list[str]:
        """Call a rpc with animals (or a query) of these names; the names (or the count) answered.

        Args:
            ends: Whether a request stream is closed after the words given, if any. A
                handler that fails before it has read that far must be called
                without: where a write of grpc.aio's client meets a call that
                has ended, the client replaces the status by an INTERNAL of its own.
        """
        options.setdefault("timeout", 20)
        request, _ = MESSAGES[name]
        rpc, kind = self.rpc(name), KINDS[name]
        if kind.startswith("unary"):
            call = rpc(request(name=words[0] if words else "ant"), **options)
        elif ends:
            call = rpc(iter([request(name=word) for word in words or ("ant",)]), **options)
        else:
            call = rpc(**options)
            for word in words:
                await call.write(request(name=word))
        if kind.endswith("stream"):
            return [message.name async for message in call]
        reply = await call
        return [reply.name if name == "Import" else str(reply.count)]

    async def failure(self, name: str, *words: str, **options: Any) -> grpc.aio.AioRpcError:
        """The error a call ends with."""
        try:
            answer = await self.ask(name, *words, **options)
        except grpc.aio.AioRpcError as exc:
            return exc
        raise AssertionError(f"{name} answered {answer}")


@contextlib.asynccontextmanager
async def serving(
    *objects: object,
    source: Any = pb,
    config: Config | None = None,
    interceptors: Sequence[Any] = (),
    options: Sequence[tuple[str, Any]] = (),
    add: Callable[[Server], None] | None = None,
    record: ServerRecord | None = None,
    yielded: Yielded | None = None,
) -> AsyncIterator[Running]:
    config = config or Config()
    if TRANSPORT == "fast":
        config = config.replace("code", transport="fast")
    memory = MemoryTransport(config.max_message_size) if TRANSPORT == "memory" else None
    server = Server(
        config,
        interceptors=interceptors,
        options=options,
        transport=memory,
        record=record,
        yielded=yielded,
    )
    for obj in objects:
        server.add(obj, source, partial=True)
    if add is not None:
        add(server)
    host, port = await server.bind("127.0.0.1:0")
    await server.start()
    server.set_serving(True)
    try:
        if memory is not None:
            async with MemoryChannel(memory) as channel:
                yield Running(server, channel, port)
        elif ENDS.client == "fast":
            from tests.serving.fast_channel import FastChannel  # pymicro-fast need not be there otherwise

            async with FastChannel(f"{host}:{port}") as channel:
                yield Running(server, channel, port)
        else:
            async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
                yield Running(server, channel, port)
    finally:
        await server.stop(None)


async def eventually(condition: Callable[[], bool], what: str, timeout: float = 10) -> None:
    """Wait until a condition of this process holds."""
    try:
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110  # anything at all, not only what has an event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


def everything_in(error: grpc.aio.AioRpcError) -> str:
    """All that a caller can read in a failed call."""
    parts = [error.details(), tuple(error.initial_metadata() or ()), tuple(error.trailing_metadata() or ())]
    return " ".join(map(str, [*parts, error.debug_error_string()]))


async def stops_growing(value: Callable[[], int]) -> int:
    """What a number ends at: it has stood still for 0.3 s."""
    last, since = value(), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - since < 0.3:  # that it stands still has no event
        await asyncio.sleep(0.02)
        if value() != last:
            last, since = value(), asyncio.get_running_loop().time()
    return last


def headers_with_path(path: bytes) -> bytes:
    """An HTTP/2 connection's first bytes: preface, settings, and a call of `path` (RFC 9113, RFC 7541)."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def text(value: bytes) -> bytes:
        return bytes([len(value)]) + value

    block = b"\x83\x86\x04" + text(path) + b"\x01" + text(b"x")  # POST, http, :path, :authority
    block += b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers")
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, block)
