"""A Python server in a process of its own: `python -m benchmarks.server KIND`.

Prints its addresses as one line of JSON. Each line read from stdin is answered
with the CPU seconds this process has used, and marked for valgrind
(`benchmarks/marks.py`); the end of stdin ends it, so that it never outlives the
benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from threading import Thread
from typing import Any

import grpc
import grpc.aio

from benchmarks import certificates
from benchmarks.greeter import COUNT, REPLY, pb, rpc
from benchmarks.interceptors import AroundHandler, around
from benchmarks.loops import run
from benchmarks.marks import mark
from benchmarks.tracing import unsampled


class Bare(rpc.GreeterServicer):  # type: ignore[misc]
    """Handlers that do nothing, as grpcio has them.

    Attributes:
        address: Where it is reached.
    """

    address = ""

    async def SayHello(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return REPLY

    async def CountDown(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        for _ in range(getattr(request, "from")):
            yield COUNT

    async def GreetAll(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        async for _ in requests:
            pass
        # So that a client can see which of its nodes are in use.
        return pb.HelloReply(address=self.address)

    async def Chat(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for message in requests:
            yield message


@asynccontextmanager
async def bare(
    ports: int, interceptors: Sequence[Any] = (), credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(ports):
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], interceptors=interceptors)
            servicer = Bare()
            rpc.add_GreeterServicer_to_server(servicer, server)
            if credentials is None:
                port = server.add_insecure_port("127.0.0.1:0")
            else:
                port = server.add_secure_port("127.0.0.1:0", credentials)
            servicer.address = f"127.0.0.1:{port}"
            await server.start()
            stack.push_async_callback(server.stop, None)
            addresses.append(servicer.address)
        yield addresses


@asynccontextmanager
async def pymicro(ports: int, interceptors: Sequence[Any] = (), **settings: Any) -> AsyncIterator[list[str]]:
    from pymicro import Service, handler

    class Greeter:
        """The same handlers as `Bare`, as pymicro has them."""

        @handler
        async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
            return REPLY

        @handler
        async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
            for _ in range(getattr(request, "from")):
                yield COUNT

        @handler
        async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
            async for _ in requests:
                pass
            return REPLY

        @handler
        async def chat(self, messages: AsyncIterator[pb.ChatMessage]) -> AsyncIterator[pb.ChatMessage]:
            async for message in messages:
                yield message

    if ports != 1:
        raise SystemExit("a pymicro server has one port")
    # The memory registry keeps the benchmark out of the folder where the machine's services meet.
    service = Service("greeter", registry="memory", interceptors=interceptors, **settings)
    service.add(Greeter(), pb)
    async with service:
        yield [service.address]


KINDS: dict[str, Callable[[int], AbstractAsyncContextManager[list[str]]]] = {
    "bare": bare,
    "pymicro": pymicro,
    "pymicro-fast": lambda ports: pymicro(ports, transport="fast"),
    "bare-intercepted": lambda ports: bare(ports, [AroundHandler()]),
    "pymicro-intercepted": lambda ports: pymicro(ports, [around]),
    "pymicro-uncounted": lambda ports: pymicro(ports, metrics="off"),
    "pymicro-unsampled": lambda ports: pymicro(ports, **unsampled()),
    "bare-tls": lambda ports: bare(ports, credentials=certificates.server_credentials()),
    "pymicro-tls": lambda ports: pymicro(ports, **certificates.settings()),
    "pymicro-fast-tls": lambda ports: pymicro(ports, transport="fast", **certificates.settings()),
}


async def serve(kind: str, ports: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def answer() -> None:
        for _ in sys.stdin:
            mark()
            print(time.process_time(), flush=True)
        loop.call_soon_threadsafe(ended.set)

    async with KINDS[kind](ports) as addresses:
        print(json.dumps(addresses), flush=True)
        Thread(target=answer, name="cpu", daemon=True).start()
        await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--ports", type=int, default=1)
    parser.add_argument("--loop", default="asyncio")
    arguments = parser.parse_args()
    run(serve(arguments.kind, arguments.ports), arguments.loop)


if __name__ == "__main__":
    main()
