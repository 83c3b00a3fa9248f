"""Calls that greeter, with this checkout and with the last release alike; prints what it got as JSON.

python client.py shapes|errors|killed|refused
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

Stub = greeter_pb2_grpc.GreeterStub


async def shapes(stub: Stub) -> dict[str, object]:
    """Each shape once, and whether the server says that the unary one may run twice."""

    async def names() -> AsyncIterator[pb.HelloRequest]:
        for name in ("Ada", "Grace"):
            yield pb.HelloRequest(name=name)

    async def lines() -> AsyncIterator[pb.ChatMessage]:
        for text in ("one", "two"):
            yield pb.ChatMessage(text=text)

    call = stub.SayHello(pb.HelloRequest(name="Ada"), timeout=30)
    reply = await call
    return {
        "unary_unary": reply.message.partition(",")[0],
        "unary_stream": [item.number async for item in stub.CountDown(pb.CountDownRequest(**{"from": 3}))],
        "stream_unary": (await stub.GreetAll(names(), timeout=30)).message,
        "stream_stream": [line.text async for line in stub.Chat(lines())],
        "idempotent": ("pymicro-idempotent", "1") in tuple(await call.trailing_metadata()),
    }


async def errors(stub: Stub) -> dict[str, object]:
    """A status with details, the deadline as the server sees it, and one that passes."""
    found: dict[str, object] = {}
    try:
        await stub.SayHello(pb.HelloRequest(), timeout=30)
    except pymicro.InvalidArgument as exc:
        (why,) = exc.error_details
        found |= {"details": exc.details(), "from_peer": exc.from_peer}
        found |= {"reason": why.reason, "domain": why.domain, "metadata": dict(why.metadata)}
    found["left"] = (await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=1000)).message.split(", ")[-1]
    try:
        await stub.SayHello(pb.HelloRequest(name="hang"), timeout=0.2)
    except pymicro.DeadlineExceeded:
        found["deadline"] = "exceeded"
    return found


async def killed(stub: Stub) -> dict[str, object]:
    """One of two nodes dies with a call in it, which may run twice: it is tried on the other one."""
    addresses: set[str] = set()
    while len(addresses) < 2:
        addresses.add((await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=30)).address)
    victim, other = sorted(addresses)
    while True:
        reply = await stub.SayHello(pb.HelloRequest(name=f"die {victim}"), timeout=30)
        if "attempt 1" in reply.message:
            return {"answered_by_the_other": reply.address == other}


async def refused(stub: Stub) -> dict[str, object]:
    """Of two nodes each takes one call at a time: what one refuses the other one takes."""
    while True:
        calls = (stub.SayHello(pb.HelloRequest(name="hold"), timeout=30) for _ in range(2))
        found = await asyncio.gather(*calls, return_exceptions=True)
        # A server may still be at the end of a call whose reply is here already: then both refuse.
        replies = [reply for reply in found if not isinstance(reply, pymicro.ResourceExhausted)]
        if any("attempt 1" in reply.message for reply in replies):
            return {"served_by": len({reply.address for reply in replies})}


SCENES: dict[str, Callable[[Stub], Awaitable[dict[str, object]]]] = {
    scene.__name__: scene for scene in (shapes, errors, killed, refused)
}


async def main(scene: str) -> None:
    async with pymicro.Client() as client:
        print(json.dumps(await SCENES[scene](Stub(client.channel("greeter")))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
