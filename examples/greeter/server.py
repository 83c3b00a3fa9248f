"""The greeter: one method of each of gRPC's four shapes.

python examples/greeter/server.py
python -m pymicro run examples/greeter/server.py
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from greeter.v1 import greeter_pb2 as pb
from pymicro import CallContext, InvalidArgument, Service, Unavailable, handler


def reply(message: str) -> pb.HelloReply:
    """Every reply says which node it came from."""
    return pb.HelloReply(message=message, address=service.node.address, pid=os.getpid())


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        if not request.name:
            raise InvalidArgument("name is empty")
        return reply(f"Hello {request.name}")

    @handler
    async def count_down(
        self, request: pb.CountDownRequest, context: CallContext
    ) -> AsyncIterator[pb.CountDownReply]:
        start = getattr(request, "from")  # the field's name is a word of Python's
        if not 1 <= start <= 10_000:
            raise InvalidArgument(f"from is {start}, not 1 to 10000")
        for number in range(start, 0, -1):
            if context.draining:
                # Not just the end of the stream: the caller must see that numbers are missing.
                raise Unavailable(f"stopping; {number} and below were not counted")
            yield pb.CountDownReply(number=number)

    @handler
    async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
        names = [request.name async for request in requests]
        if not all(names):
            raise InvalidArgument(f"name {names.index('') + 1} of {len(names)} is empty")
        return reply(f"Hello {', '.join(names) or 'nobody'}")

    @handler
    async def chat(
        self, lines: AsyncIterator[pb.ChatMessage], context: CallContext
    ) -> AsyncIterator[pb.ChatMessage]:
        # Silent people must not hold up a stop, so both are waited for: a line and the drain.
        leaving = asyncio.create_task(context.draining.wait())
        try:
            while True:
                reading = asyncio.ensure_future(anext(lines, None))
                await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    yield pb.ChatMessage(text="I have to go, good-bye")
                    return
                line = reading.result()
                if line is None:
                    return
                yield pb.ChatMessage(text=f"You said: {line.text}")
        finally:
            leaving.cancel()


service = Service("greeter", version="1.0.0")
service.add(Greeter(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
