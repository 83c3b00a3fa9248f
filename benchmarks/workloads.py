"""What is done with a stub: so many calls, or so many messages in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.greeter import REQUEST, TEXT, pb
from benchmarks.rounds import Work

__all__ = ["bidi", "server_streaming", "short_streams", "unary"]


def unary(in_flight: int) -> Work:
    """Unary calls, `in_flight` at a time."""

    async def caller(stub: Any, calls: int) -> None:
        say_hello = stub.SayHello
        for _ in range(calls):
            await say_hello(REQUEST)

    async def work(stub: Any, count: int) -> None:
        if in_flight == 1:
            await caller(stub, count)
            return
        share, rest = divmod(count, in_flight)
        async with asyncio.TaskGroup() as group:
            for index in range(in_flight):
                group.create_task(caller(stub, share + (index < rest)))

    return work


async def server_streaming(stub: Any, count: int) -> None:
    """One call whose server sends `count` messages."""
    seen = 0
    async for _ in stub.CountDown(pb.CountDownRequest(**{"from": count})):
        seen += 1
    if seen != count:
        raise RuntimeError(f"the stream ended after {seen} of {count} messages")


async def bidi(stub: Any, count: int) -> None:
    """One call that sends `count` messages and reads each one back, both ways at once."""

    async def messages() -> AsyncIterator[Any]:
        for _ in range(count):
            yield TEXT

    seen = 0
    async for _ in stub.Chat(messages()):
        seen += 1
    if seen != count:
        raise RuntimeError(f"the stream ended after {seen} of {count} messages")


async def short_streams(stub: Any, count: int) -> None:
    """`count` calls, one after the other, that send one message each: what a stream costs at its ends."""

    async def message() -> AsyncIterator[Any]:
        yield REQUEST

    for _ in range(count):
        await stub.GreetAll(message())
