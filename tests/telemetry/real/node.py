"""A service of the scene, as a program: does what it is told in the name to greet, and is traced.

    python -m tests.telemetry.real.node FOLDER NODE ENDPOINT [ONWARD]

NODE is its own name; while there is a file `FOLDER/NODE.bad`, its calls fail. ENDPOINT is where it sends
its spans. ONWARD is the service that it calls. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import prometheus_client

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc
from pymicro import CallContext, Service, handler
from tests.telemetry.real.scrapes import Scrapes
from tests.telemetry.real.tracer import set_up_tracing

ATTEMPTS = "pymicro-previous-attempts"

# What this program counts itself, beside what pymicro counts.
HANDLED = prometheus_client.Counter("scene_handled", "Handlers that ran.", ["method"])


class Greeter:
    def __init__(self, bad: Path, onward: str) -> None:
        self._bad = bad
        self._onward = onward

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        HANDLED.labels(context.method.removeprefix("/")).inc()
        if self._bad.exists():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as I was told")
        return await self._do(request.name, context)

    async def _do(self, what: str, context: CallContext) -> pb.HelloReply:
        word, _, rest = what.partition(" ")
        if word == "onward":
            stub = greeter_pb2_grpc.GreeterStub(service.channel(self._onward, idempotent=["SayHello"]))
            return await stub.SayHello(pb.HelloRequest(name=rest))
        if word == "fail":
            await context.abort(grpc.StatusCode[rest], "as I was told")
        elif word == "once" and context.metadata.get(ATTEMPTS, "0") == "0":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "at the first attempt")
        elif word == "wait":
            await asyncio.sleep(float(rest))
        elif word == "hold":
            time.sleep(float(rest))  # noqa: ASYNC251  # what a bad handler does to the event loop
        elif word in ("well", "unwell"):
            service.set_health(word == "well", "as I was told")
        return pb.HelloReply(message=what)

    @handler
    async def count_down(
        self, request: pb.CountDownRequest, context: CallContext
    ) -> AsyncIterator[pb.CountDownReply]:
        HANDLED.labels(context.method.removeprefix("/")).inc()
        for number in range(getattr(request, "from"), 0, -1):
            yield pb.CountDownReply(number=number)

    @handler
    async def greet_all(
        self, requests: AsyncIterator[pb.HelloRequest], context: CallContext
    ) -> pb.HelloReply:
        HANDLED.labels(context.method.removeprefix("/")).inc()
        return pb.HelloReply(message=", ".join([request.name async for request in requests]))

    @handler
    async def chat(
        self, lines: AsyncIterator[pb.ChatMessage], context: CallContext
    ) -> AsyncIterator[pb.ChatMessage]:
        HANDLED.labels(context.method.removeprefix("/")).inc()
        async for line in lines:
            yield line


if __name__ == "__main__":
    folder, node, endpoint, *onward = sys.argv[1:]
    service = Service(node.rpartition("-")[0])
    service.add(Greeter(Path(folder, f"{node}.bad"), onward[0] if onward else ""), pb)
    provider = set_up_tracing(service.name, node, endpoint)
    scrapes: list[Scrapes] = []

    @service.on_start
    async def notice_scrapes() -> None:
        scrapes.append(Scrapes())

    @service.on_stop
    async def be_scraped() -> None:
        # What Prometheus has of this process in the end is all that it did.
        await scrapes[0].whole()

    service.init(argv=[])
    service.run()
    provider.shutdown()
