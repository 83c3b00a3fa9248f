"""The service Peer in Python; peer/handler.go is the same in Go.

python -m pymicro run tests/gomicro/programs/server.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from peer.v1 import peer_pb2 as pb

import pymicro
from pymicro import CallContext, RpcError, Service, handler

# What a handler here raises, by the HTTP status that go-micro gives it. 405 has no counterpart.
ERRORS: dict[int, type[RpcError]] = {
    400: pymicro.InvalidArgument,
    401: pymicro.Unauthenticated,
    403: pymicro.PermissionDenied,
    404: pymicro.NotFound,
    408: pymicro.DeadlineExceeded,
    409: pymicro.AlreadyExists,
    412: pymicro.FailedPrecondition,
    429: pymicro.ResourceExhausted,
    500: pymicro.Internal,
    501: pymicro.Unimplemented,
    503: pymicro.Unavailable,
}


def fail_if_asked(code: int) -> None:
    if code == -1:
        raise RuntimeError("a plain error")
    if code:
        raise ERRORS[code](f'as asked: {code}, "quoted" & ünïcode')


class Peer:
    def __init__(self) -> None:
        self.cancelled = 0

    async def respond(self, ask: pb.Ask, text: str, context: CallContext) -> pb.Answer:
        """Sleep, fail or answer, as it was asked to."""
        if ask.sleep_ms:
            try:
                await asyncio.sleep(ask.sleep_ms / 1000)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        fail_if_asked(ask.code)
        saw = {key: value for key, value in context.metadata if isinstance(value, str)}
        saw |= {f"tag-{key}": value for key, value in ask.tags.items()}
        left = context.time_remaining()
        return pb.Answer(
            text=text,
            node=service.node.id,
            saw={**saw, "cancelled": str(self.cancelled)},
            left_ms=0 if left is None else int(left * 1000),
        )

    @handler
    async def hello(self, ask: pb.Ask, context: CallContext) -> pb.Answer:
        return await self.respond(ask, f"Hello {ask.text}", context)

    @handler
    async def feed(self, ask: pb.Ask, context: CallContext) -> AsyncIterator[pb.Answer]:
        each = pb.Ask(sleep_ms=ask.sleep_ms, tags=ask.tags)
        for number in range(1, ask.count + 1):
            yield await self.respond(each, f"{ask.text} {number}", context)
        fail_if_asked(ask.code)

    @handler
    async def gather(self, asks: AsyncIterator[pb.Ask], context: CallContext) -> pb.Answer:
        said = [ask async for ask in asks]
        return await self.respond(said[-1], ", ".join(ask.text for ask in said), context)

    @handler
    async def talk(self, asks: AsyncIterator[pb.Ask], context: CallContext) -> AsyncIterator[pb.Answer]:
        async for ask in asks:
            yield await self.respond(ask, f"You said: {ask.text}", context)


service = Service("peer", version="1.0.0")
service.add(Peer(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
