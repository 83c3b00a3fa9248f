"""Calls and streams: pymicro ÷ bare `grpc.aio`, on either end, and bare ÷ bare as the control."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import grpc.aio

from benchmarks import certificates
from benchmarks.figures import Bar, Figure, Row, at_least, is_one
from benchmarks.greeter import rpc
from benchmarks.interceptors import AroundCall, around
from benchmarks.processes import GoLoad, GoServer, Server, ServerProcess
from benchmarks.rounds import Pair, Settings, Side, Work, compare
from benchmarks.tracing import unsampled
from benchmarks.workloads import bidi, large_bidi, server_streaming, short_streams, unary

__all__ = [
    "CHANNELS",
    "IN_FLIGHT",
    "Opener",
    "clients",
    "compared",
    "control",
    "fast",
    "interceptors",
    "other_server",
    "server",
    "servers",
    "streams",
    "ten_nodes",
    "unary_calls",
]

CLOCK, CPU = at_least(0.95), at_least(0.92)
IN_FLIGHT = (1, 64)
ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'

Opener = Callable[[], AbstractAsyncContextManager[Pair]]


@asynccontextmanager
async def bare_channel(
    addresses: list[str],
    *options: tuple[str, Any],
    interceptors: Sequence[Any] = (),
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[Any]:
    """A stub on a plain channel, with grpc-core's round_robin if there are several addresses."""
    target = addresses[0]
    if len(addresses) > 1:
        target = "ipv4:" + ",".join(addresses)
        options = (*options, ("grpc.service_config", ROUND_ROBIN))
    if credentials is None:
        made = grpc.aio.insecure_channel(target, options=options or None, interceptors=interceptors)
    else:
        options = (*options, ("grpc.ssl_target_name_override", certificates.NAME))
        made = grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
    async with made as channel:
        stub = rpc.GreeterStub(channel)
        await all_connected(stub, len(addresses))
        yield stub


@asynccontextmanager
async def pymicro_channel(
    addresses: list[str], interceptors: Sequence[Any] = (), **settings: Any
) -> AsyncIterator[Any]:
    """A stub on a pymicro channel, with default settings but for those given."""
    import pymicro

    nodes = ",".join(f"greeter={address}" for address in addresses)
    async with pymicro.Client(
        registry="static", registry_address=nodes, interceptors=interceptors, **settings
    ) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        await all_connected(stub, len(addresses))
        yield stub


def fast_channel(addresses: list[str]) -> AbstractAsyncContextManager[Any]:
    """The same over transport `fast`."""
    return pymicro_channel(addresses, transport="fast")


CHANNELS: dict[str, Callable[[list[str]], AbstractAsyncContextManager[Any]]] = {
    "bare": bare_channel,
    "pymicro": pymicro_channel,
    "pymicro-fast": fast_channel,
    "bare-intercepted": lambda addresses: bare_channel(addresses, interceptors=[AroundCall()]),
    "pymicro-intercepted": lambda addresses: pymicro_channel(addresses, interceptors=[around]),
    "pymicro-uncounted": lambda addresses: pymicro_channel(addresses, metrics="off"),
    "pymicro-unsampled": lambda addresses: pymicro_channel(addresses, **unsampled()),
    "bare-tls": lambda addresses: bare_channel(addresses, credentials=certificates.client_credentials()),
    "pymicro-tls": lambda addresses: pymicro_channel(addresses, **certificates.settings()),
    "pymicro-fast-tls": lambda addresses: pymicro_channel(
        addresses, transport="fast", **certificates.settings()
    ),
}


async def all_connected(stub: Any, nodes: int) -> None:
    """Call until this many nodes have answered: until every one is really in use."""
    seen: set[str] = set()
    async with asyncio.timeout(30):
        while len(seen) < nodes:
            seen.add((await stub.GreetAll(iter(()))).address)


async def compared(
    name: str,
    what: str,
    opener: Opener,
    work: Work,
    settings: Settings,
    *,
    unit: str = "calls",
    bars: tuple[Bar | None, Bar | None] = (CLOCK, CPU),
) -> list[Row]:
    """The rows of a comparison: by the clock and by CPU time."""
    found = await compare(opener, work, settings)
    return [
        Row(
            name,
            f"{what}, {settings.loop}, clock",
            Figure.of(found.clock),
            "",
            bars[0],
            found.detail("clock", unit),
        ),
        Row(
            name,
            f"{what}, {settings.loop}, CPU",
            Figure.of(found.cpu),
            "",
            bars[1],
            found.detail("cpu", unit),
        ),
    ]


def other_server(settings: Settings, ports: int = 1, *, tls: bool = False) -> Server:
    """The server that clients are measured against."""
    if settings.go:
        return GoServer(ports=ports, files=certificates.files() if tls else ())
    return ServerProcess("bare-tls" if tls else "bare", ports=ports, loop=settings.loop)


def clients(
    settings: Settings,
    *,
    ports: int = 1,
    subject: Any = pymicro_channel,
    baseline: Any = bare_channel,
    tls: bool = False,
) -> Opener:
    """Two channels in this process to one server in another."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        async with AsyncExitStack() as stack:
            process = stack.enter_context(other_server(settings, ports, tls=tls))
            ours = await stack.enter_async_context(subject(process.addresses))
            theirs = await stack.enter_async_context(baseline(process.addresses))
            yield Pair(Side(ours), Side(theirs))

    return opener


def servers(
    settings: Settings, *, subject: str = "pymicro", baseline: str = "bare", tls: bool = False
) -> Opener:
    """Two servers, each in a process of its own, each under a client of its own."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        async with AsyncExitStack() as stack:
            sides = []
            for kind in (subject, baseline):
                process = stack.enter_context(ServerProcess(kind, loop=settings.loop))
                client: Any
                if settings.go:
                    files = certificates.files() if tls else ()
                    client = stack.enter_context(GoLoad(process.addresses[0], files))
                else:
                    given = certificates.client_credentials() if tls else None
                    channel = bare_channel(process.addresses, credentials=given)
                    client = await stack.enter_async_context(channel)
                sides.append(Side(client, process.cpu))
            yield Pair(*sides)

    return opener


def _second_bare_channel(addresses: list[str]) -> AbstractAsyncContextManager[Any]:
    # Two equal channels of one process share their connection; the control needs two.
    return bare_channel(addresses, ("grpc.use_local_subchannel_pool", 1))


def _both_ends(settings: Settings) -> Opener:
    """A client in this process and a server in another, both fast; and the same of grpc.aio."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        async with AsyncExitStack() as stack:
            sides = []
            for kind, channel in (("pymicro-fast", fast_channel), ("bare", bare_channel)):
                process = stack.enter_context(ServerProcess(kind, loop=settings.loop))
                stub = await stack.enter_async_context(channel(process.addresses))
                sides.append(Side(stub, partial(_with_this_process, process)))
            yield Pair(*sides)

    return opener


def _with_this_process(server: Server) -> float:
    return server.cpu() + time.process_time()


async def fast(settings: Settings) -> AsyncIterator[list[Row]]:
    """Transport fast, with pymicro's public API, ÷ bare grpc.aio on the same event loop."""
    works: list[tuple[str, Work, str]] = [
        (f"unary {size}, {in_flight} in flight", unary(in_flight, length), "calls")
        for size, length in (("64 B", 62), ("64 KB", 65_530))
        for in_flight in IN_FLIGHT
    ]
    works += [
        ("server streaming", server_streaming, "messages"),
        ("bidi 64 B", bidi, "messages"),
        ("bidi 64 KB", large_bidi, "messages"),
    ]
    openers = {
        "channel": clients(settings, subject=fast_channel),
        "server": servers(settings, subject="pymicro-fast"),
        "both ends": _both_ends(settings),
    }
    for end, opener in openers.items():
        for what, work, unit in works:
            # Below this, what is gained is not worth a transport of our own.
            bar = at_least(4) if what == "unary 64 B, 1 in flight" else None
            yield await compared(
                "fast", f"{end}, {what}", opener, work, settings, unit=unit, bars=(None, bar)
            )


async def control(settings: Settings) -> AsyncIterator[list[Row]]:
    bars = (is_one(), is_one())
    for in_flight in IN_FLIGHT:
        opener = clients(settings, subject=_second_bare_channel)
        what = f"bare channel ÷ bare channel, {in_flight} in flight"
        yield await compared("control", what, opener, unary(in_flight), settings, bars=bars)
    for in_flight in IN_FLIGHT:
        opener = servers(settings, subject="bare")
        what = f"bare server ÷ bare server, {in_flight} in flight"
        yield await compared("control", what, opener, unary(in_flight), settings, bars=bars)


async def unary_calls(settings: Settings) -> AsyncIterator[list[Row]]:
    for in_flight in IN_FLIGHT:
        what = f"channel, {in_flight} in flight"
        yield await compared("unary", what, clients(settings), unary(in_flight), settings)


async def ten_nodes(settings: Settings) -> AsyncIterator[list[Row]]:
    for in_flight in IN_FLIGHT:
        what = f"channel over ten nodes, {in_flight} in flight"
        opener = clients(settings, ports=10)
        yield await compared("ten-nodes", what, opener, unary(in_flight), settings)


async def server(settings: Settings) -> AsyncIterator[list[Row]]:
    for in_flight in IN_FLIGHT:
        what = f"server, {in_flight} in flight"
        yield await compared("server", what, servers(settings), unary(in_flight), settings)


async def interceptors(settings: Settings) -> AsyncIterator[list[Row]]:
    channels = clients(
        settings, subject=CHANNELS["pymicro-intercepted"], baseline=CHANNELS["bare-intercepted"]
    )
    served = servers(settings, subject="pymicro-intercepted", baseline="bare-intercepted")
    for end, opener in (("channel", channels), ("server", served)):
        for in_flight in IN_FLIGHT:
            what = f"{end}, one interceptor, {in_flight} in flight"
            yield await compared("intercept", what, opener, unary(in_flight), settings, bars=(None, None))


async def streams(settings: Settings) -> AsyncIterator[list[Row]]:
    # Longer and fewer rounds: a stream is one call, and it is its messages that are measured.
    longer = replace(settings, rounds=max(settings.rounds // 2, 2), seconds=settings.seconds * 3)
    for end, opener in (("channel", clients(settings)), ("server", servers(settings))):
        for shape, work in (("server streaming", server_streaming), ("bidi", bidi)):
            yield await compared("streams", f"{end}, {shape}", opener, work, longer, unit="messages")
        what = f"{end}, calls that stream one message"
        yield await compared("streams", what, opener, short_streams, settings, bars=(None, None))
