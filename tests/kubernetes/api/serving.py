"""A server that answers as a test wants, where `fakes.kube_api` is more than is needed: TLS, broken HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Served:
    """Where it listens, and what it was asked.

    Attributes:
        port: On 127.0.0.1.
        requests: In order.
        peers: The common names of the client certificates shown; "" for none.
        connections: How many have been made.
    """

    port: int = 0
    scheme: str = "http"
    requests: list[web.BaseRequest] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def tokens(self) -> list[str]:
        return [request.headers.get("Authorization", "") for request in self.requests]


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"path": request.path})


@asynccontextmanager
async def serving(
    handler: Handler = hello, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Served]:
    served = Served(scheme="https" if tls else "http")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        served.requests.append(request)
        certificate = request.get_extra_info("peercert") or {}
        names = dict(pair for group in certificate.get("subject", ()) for pair in group)
        served.peers.append(names.get("commonName", ""))
        return await handler(request)

    server = web.Server(handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.05)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
        await site.start()
        served.port = runner.addresses[0][1]
        yield served
    finally:
        await runner.cleanup()
