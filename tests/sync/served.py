"""A service for the synchronous client's tests, as a program: gRPC has one loop in a process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from pymicro import CallContext, NotFound, Service, handler
from tests.protos import zoo_pb2 as pb

# Calls in progress, and those that were cancelled, by the name of their first request.
LIVE: Counter[str] = Counter()
CANCELLED: Counter[str] = Counter()


async def for_ever(name: str) -> None:
    LIVE[name] += 1
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        CANCELLED[name] += 1
        raise
    finally:
        LIVE[name] -= 1


class Keeper:
    """What it does is said by the name in the request."""

    @handler("Import")
    async def take(self, request: Any, context: CallContext) -> Any:
        what, _, rest = request.name.partition(":")
        if what == "fail":
            context.set_trailing("kind", "rare")
            raise NotFound("no such animal")
        if what == "hang":
            await for_ever(rest)
        if what == "live":
            return pb.Animal(legs=LIVE[rest])
        if what == "cancelled":
            return pb.Animal(legs=CANCELLED[rest])
        if what == "metadata":
            await context.send_initial_metadata((("first", "one"),))
            context.set_trailing("last", "two")
            return pb.Animal(names=[f"{key}={value}" for key, value in context.invocation_metadata()])
        if what == "remaining":
            left = context.time_remaining()
            return pb.Animal(legs=-1 if left is None else round(left * 1000))
        return pb.Animal(name=request.name.upper())

    @handler
    async def watch(self, request: Any, context: CallContext) -> AsyncIterator[Any]:
        what, _, rest = request.name.partition(":")
        if what == "hang":
            await context.send_initial_metadata((("first", "one"),))
            yield pb.Animal(name="first")
            await for_ever(rest)
        if what == "endless":
            while True:
                yield pb.Animal(name="again", names=["x" * 1000])
        for legs in range(int(rest)):
            yield pb.Animal(legs=legs)
        if what == "fail":
            raise NotFound("no more animals")

    @handler
    async def count(self, requests: AsyncIterator[Any]) -> Any:
        count = 0
        async for request in requests:
            if request.name == "enough":
                break
            if request.name == "hang":
                await for_ever("count")
            count += 1
        return pb.Tally(count=count)

    @handler
    async def talk(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.name == "enough":
                return
            yield pb.Animal(name=request.name.upper(), legs=request.legs)


service = Service("zoo")
service.add(Keeper(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
