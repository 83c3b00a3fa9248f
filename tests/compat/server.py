"""A greeter for programs of another version: it runs with this checkout and with the last release alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from google.rpc import error_details_pb2

from greeter.v1 import greeter_pb2 as pb
from pymicro import CallContext, InvalidArgument, Service, handler, idempotent


class Greeter:
    @handler
    @idempotent
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        word, _, rest = request.name.partition(" ")
        if not word:
            why = error_details_pb2.ErrorInfo(reason="NO_NAME", domain="greeter", metadata={"field": "name"})
            raise InvalidArgument("name is empty", error_details=[why])
        if word == "hang":
            await asyncio.Event().wait()
        if word == "hold":  # the call, long enough for others to come meanwhile
            await asyncio.sleep(0.05)
        if word == "die" and rest == service.node.address:
            os._exit(9)
        left = context.time_remaining()
        return pb.HelloReply(
            message=f"Hello {request.name}, attempt {context.previous_attempts}, {left or 0:.0f} s left",
            address=service.node.address,
            pid=os.getpid(),
        )

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
        for number in range(getattr(request, "from"), 0, -1):
            yield pb.CountDownReply(number=number)

    @handler
    async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
        return pb.HelloReply(message=f"Hello {', '.join([request.name async for request in requests])}")

    @handler
    async def chat(self, lines: AsyncIterator[pb.ChatMessage]) -> AsyncIterator[pb.ChatMessage]:
        async for line in lines:
            yield pb.ChatMessage(text=f"You said: {line.text}")


service = Service("greeter", version="1.0.0", metadata={"written-by": "somebody else"})
service.add(Greeter(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
