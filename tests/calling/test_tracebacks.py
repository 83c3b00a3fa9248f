"""What the traceback of a call's error has: the program's own frames, and one of pymicro's."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from pymicro import DeadlineExceeded, NotFound

from .backends import count_down, greeter, hello, stub

Call = Callable[[Any], Awaitable[Any]]


def frames(error: BaseException) -> list[str]:
    """The functions in the traceback below the test's own; `pymicro` for each of pymicro's."""
    _, *found = traceback.extract_tb(error.__traceback__)
    return ["pymicro" if "/pymicro/" in frame.filename else frame.name for frame in found]


async def iterated(greet: Any) -> None:
    async for _ in greet.CountDown(count_down(3), timeout=0.0):
        pass


async def read(greet: Any) -> None:
    await greet.CountDown(count_down(3), timeout=0.0).read()


async def sent_from_an_iterator(greet: Any) -> None:
    await greet.GreetAll(iter([hello()]), timeout=0.0)


async def written(greet: Any) -> None:
    call = greet.GreetAll(timeout=0.0)
    while True:
        await call.write(hello())


async def in_time(greet: Any) -> None:
    await greet.SayHello(hello(), timeout=0.0)


SHAPES = (iterated, read, sent_from_an_iterator, written, in_time)


@pytest.mark.parametrize("call", SHAPES, ids=lambda call: call.__name__)
async def test_an_error_shows_one_frame_of_pymicro(call: Call) -> None:
    async with greeter() as (client, _, _):
        with pytest.raises(DeadlineExceeded) as caught:
            await call(stub(client))
    assert frames(caught.value) == [call.__name__, "pymicro"]


async def test_what_a_peer_says_shows_one_frame_however_often_it_is_asked_for() -> None:
    async with greeter() as (client, _, _):
        call = stub(client).SayHello(hello("fail"))
        for _ in range(3):
            with pytest.raises(NotFound) as caught:
                await call
            assert frames(caught.value) == ["pymicro"]


def requests() -> Iterator[Any]:
    yield hello()
    raise ValueError("no more names")


async def asynchronous_requests() -> AsyncIterator[Any]:
    yield hello()
    raise ValueError("no more names")


@pytest.mark.parametrize("make", [requests, asynchronous_requests])
async def test_an_iterator_that_fails_is_shown_where_it_failed(make: Callable[[], Any]) -> None:
    async with greeter() as (client, _, _):
        call = stub(client).GreetAll(make())
        for _ in range(2):
            with pytest.raises(ValueError, match="no more names") as caught:
                await call
            assert frames(caught.value) == ["pymicro", make.__name__]


async def test_an_iterator_of_a_stream_both_ways_too() -> None:
    def lines() -> Iterator[Any]:
        yield pb.ChatMessage(text="a")
        raise ValueError("no more lines")

    async with greeter() as (client, _, _):
        with pytest.raises(ValueError, match="no more lines") as caught:
            async for _ in stub(client).Chat(lines()):
                pass
    assert frames(caught.value) == ["pymicro", "lines"]


async def looked_up() -> None:
    raise LookupError("no token")


async def with_a_token(call: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
    await looked_up()


async def test_an_interceptor_that_fails_is_shown_where_it_failed() -> None:
    async with greeter(interceptors=[with_a_token]) as (client, _, _):
        with pytest.raises(LookupError) as caught:
            await stub(client).SayHello(hello())
    assert frames(caught.value) == ["pymicro", "with_a_token", "looked_up"]


async def test_a_task_that_is_cancelled_shows_where_it_stood() -> None:
    async def waiting() -> None:
        await stub(client).SayHello(hello("wait"))

    async with greeter() as (client, _, [backend]):
        task = asyncio.create_task(waiting())
        await backend.until(lambda: backend.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert "waiting" in frames(caught.value)
