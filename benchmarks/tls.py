"""Calls and new connections with a certificate at both ends: pymicro ÷ bare `grpc.aio` with the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks.calls import CHANNELS, IN_FLIGHT, Opener, clients, compared, other_server, servers
from benchmarks.certificates import certified
from benchmarks.figures import Row
from benchmarks.rounds import Pair, Settings, Side
from benchmarks.workloads import unary

__all__ = ["tls"]

Connecting = Callable[[], AbstractAsyncContextManager[Any]]


async def _connections(connecting: Connecting, count: int) -> None:
    """So many clients or channels, one after the other: each is opened, makes a call, and is closed."""
    for _ in range(count):
        async with connecting():
            pass


def _connecting(settings: Settings, subject: str, baseline: str, *, secured: bool) -> Opener:
    """Both kinds of client, to one server in another process."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[Pair]:
        with other_server(settings, tls=secured) as process:
            ours, theirs = (partial(CHANNELS[kind], process.addresses) for kind in (subject, baseline))
            yield Pair(Side(ours), Side(theirs))

    return opener


async def tls(settings: Settings) -> AsyncIterator[list[Row]]:
    """No bars: what TLS itself costs is OpenSSL's and BoringSSL's."""
    transports = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]
    with certified():
        for transport in transports:
            plain = "pymicro" if transport == "grpc" else "pymicro-fast"
            subject, bare = f"{plain}-tls", "bare-tls"
            openers: list[tuple[str, Opener, Any]] = []
            for in_flight in IN_FLIGHT:
                work = unary(in_flight)
                made = clients(settings, subject=CHANNELS[subject], baseline=CHANNELS[bare], tls=True)
                openers.append((f"channel over {transport}, mTLS, {in_flight} in flight", made, work))
                made = servers(settings, subject=subject, baseline=bare, tls=True)
                openers.append((f"server over {transport}, mTLS, {in_flight} in flight", made, work))
            for what, kinds, secured in (
                ("mTLS", (subject, bare), True),
                ("plain text", (plain, "bare"), False),
            ):
                made = _connecting(settings, *kinds, secured=secured)
                openers.append((f"a new client over {transport} and a call, {what}", made, _connections))
            for what, opener, work in openers:
                if work is _connections:
                    # Each takes as long as some ten to fifty calls.
                    few = replace(settings, least=8, rounds=max(settings.rounds // 2, 2))
                    yield await compared("tls", what, opener, work, few, unit="clients", bars=(None, None))
                else:
                    yield await compared("tls", what, opener, work, settings, bars=(None, None))
