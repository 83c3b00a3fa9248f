"""A greeter that tells what reaches it, for foreign clients: on its output, and in metadata."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from greeter.v1 import greeter_pb2 as pb
from pymicro import CallContext, NotFound, Service, handler


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        remaining = context.time_remaining()
        await context.send_initial_metadata((("asked-by", str(context.metadata.get("who", "nobody"))),))
        context.set_trailing_metadata((("answered-in", "time"), ("raw-bin", bytes([0, 255]))))
        if request.name == "nobody":
            raise NotFound("größe: nobody of that name")
        if request.name == "wait":
            await self._for_ever("SayHello")
        return pb.HelloReply(message=f"Hello {request.name}", pid=-1 if remaining is None else int(remaining))

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
        for number in range(getattr(request, "from"), 0, -1):
            yield pb.CountDownReply(number=number)
        if getattr(request, "from") == 5:
            await self._for_ever("CountDown")

    @handler
    async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
        return pb.HelloReply(message=", ".join([request.name async for request in requests]))

    @handler
    async def chat(self, lines: AsyncIterator[pb.ChatMessage]) -> AsyncIterator[pb.ChatMessage]:
        async for line in lines:
            yield pb.ChatMessage(text=f"You said: {line.text}")

    async def _for_ever(self, what: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            print(f"{what} was cancelled", flush=True)


service = Service("watched")
service.add(Greeter(), pb)
