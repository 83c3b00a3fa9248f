"""Calls without async: `pymicro.sync` ÷ grpc's own synchronous channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import Any

import grpc

from benchmarks.calls import Opener, compared, other_server
from benchmarks.figures import Row
from benchmarks.greeter import REQUEST, pb, rpc
from benchmarks.rounds import Pair, Settings, Side, Work

__all__ = ["sync"]

THREADS = 16


@contextmanager
def bare_channel(address: str) -> Iterator[Any]:
    """A stub on grpc's own channel."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GreeterStub(channel)
        stub.GreetAll(iter(()), wait_for_ready=True, timeout=30)
        yield stub


@contextmanager
def pymicro_channel(address: str, **settings: Any) -> Iterator[Any]:
    """A stub on a pymicro channel, with default settings but for those given."""
    from pymicro.sync import Client

    with Client(registry="static", registry_address=f"greeter={address}", **settings) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        stub.GreetAll(iter(()), wait_for_ready=True, timeout=30)
        yield stub


# The works block the event loop on purpose: it has nothing else to do, and must not spend anything.


def _calls(stub: Any, count: int) -> None:
    say_hello = stub.SayHello
    for _ in range(count):
        say_hello(REQUEST)


async def _one_thread(stub: Any, count: int) -> None:
    _calls(stub, count)


async def _many_threads(stub: Any, count: int) -> None:
    share, rest = divmod(count, THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(_calls, stub, share + (index < rest)) for index in range(THREADS)]
        for one in done:
            one.result()


async def _server_streaming(stub: Any, count: int) -> None:
    seen = sum(1 for _ in stub.CountDown(pb.CountDownRequest(**{"from": count})))
    if seen != count:
        raise RuntimeError(f"the stream ended after {seen} of {count} messages")


async def _bidi(stub: Any, count: int) -> None:
    message = pb.ChatMessage(text="x" * 62)
    seen = sum(1 for _ in stub.Chat(message for _ in range(count)))
    if seen != count:
        raise RuntimeError(f"the stream ended after {seen} of {count} messages")


def _opener(settings: Settings, subject: Callable[[str], AbstractContextManager[Any]]) -> Opener:
    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        async with AsyncExitStack() as stack:
            process = stack.enter_context(other_server(settings))
            ours = stack.enter_context(subject(process.addresses[0]))
            theirs = stack.enter_context(bare_channel(process.addresses[0]))
            yield Pair(Side(ours), Side(theirs))

    return opener


async def sync(settings: Settings) -> AsyncIterator[list[Row]]:
    """No bars: each call crosses between two threads, which grpc's own do not."""
    works: list[tuple[str, Work, str]] = [
        ("unary, 1 thread", _one_thread, "calls"),
        (f"unary, {THREADS} threads", _many_threads, "calls"),
        ("server streaming", _server_streaming, "messages"),
        ("bidi", _bidi, "messages"),
    ]
    transports = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]
    for transport in transports:

        def subject(address: str, transport: str = transport) -> AbstractContextManager[Any]:
            return pymicro_channel(address, loop=settings.loop, transport=transport)

        for what, work, unit in works:
            named = f"channel over {transport}, {what}"
            opener = _opener(settings, subject)
            yield await compared("sync", named, opener, work, settings, unit=unit, bars=(None, None))
