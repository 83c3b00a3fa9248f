"""What is done with a stub: so many calls, or so many messages in one stream.

The other end may be a Python stub, which does it here, or the Go client, which is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.greeter import REQUEST, TEXT_LENGTH, pb
from benchmarks.processes import GoLoad
from benchmarks.rounds import Work

__all__ = ["bidi", "large_bidi", "server_streaming", "short_streams", "unary"]


def _with_either(method: str, work: Work, in_flight: int = 1, length: int = TEXT_LENGTH) -> Work:
    """`work`, done by the Go client if that is what is called with."""

    async def done(stub: Any, count: int) -> None:
        if isinstance(stub, GoLoad):
            # Blocking is right: this process has nothing else to do, and must not spend anything.
            stub.run(method, in_flight, count, length)
        else:
            await work(stub, count)

    return done


def unary(in_flight: int, length: int = TEXT_LENGTH) -> Work:
    """Unary calls, `in_flight` at a time, whose requests have a text of this length."""
    request = pb.HelloRequest(name="x" * length)

    async def caller(stub: Any, calls: int) -> None:
        say_hello = stub.SayHello
        for _ in range(calls):
            await say_hello(request)

    async def work(stub: Any, count: int) -> None:
        if in_flight == 1:
            await caller(stub, count)
            return
        share, rest = divmod(count, in_flight)
        async with asyncio.TaskGroup() as group:
            for index in range(in_flight):
                group.create_task(caller(stub, share + (index < rest)))

    return _with_either("SayHello", work, in_flight, length)


async def _server_streaming(stub: Any, count: int) -> None:
    seen = 0
    async for _ in stub.CountDown(pb.CountDownRequest(**{"from": count})):
        seen += 1
    if seen != count:
        raise RuntimeError(f"the stream ended after {seen} of {count} messages")


def _bidi(length: int) -> Work:
    message = pb.ChatMessage(text="x" * length)

    async def work(stub: Any, count: int) -> None:
        async def messages() -> AsyncIterator[Any]:
            for _ in range(count):
                yield message

        seen = 0
        async for _ in stub.Chat(messages()):
            seen += 1
        if seen != count:
            raise RuntimeError(f"the stream ended after {seen} of {count} messages")

    return _with_either("Chat", work, length=length)


async def _short_streams(stub: Any, count: int) -> None:
    async def message() -> AsyncIterator[Any]:
        yield REQUEST

    for _ in range(count):
        await stub.GreetAll(message())


server_streaming = _with_either("CountDown", _server_streaming)
"""One call whose server sends `count` messages."""

bidi = _bidi(TEXT_LENGTH)
"""One call that sends `count` messages and reads each one back, both ways at once."""

large_bidi = _bidi(65_530)
"""The same with messages of 64 KB."""

short_streams = _with_either("GreetAll", _short_streams)
"""`count` calls, one after the other, that send one message each: what a stream costs at its ends."""
