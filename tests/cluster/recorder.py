"""A server and a proxy that write down what they are asked, to the byte.

The server listens twice, with and without TLS. The proxy, too, may be asked over TLS. It leads
every tunnel to the server with TLS, whatever name was asked for, and answers itself what it is
asked in plain HTTP; so a test may use any name for the server, and none is looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

# What clients say about themselves, and not about the user.
OWN = ("user-agent:", "accept:", "accept-encoding:", "kubectl-command:", "kubectl-session:", "referer:")
VERSION = b'{"major": "1", "minor": "34", "gitVersion": "v1.34.2"}'


@dataclass(frozen=True)
class Seen:
    """One request.

    Attributes:
        by: `plain`, `tls`, `proxy` or `tls proxy`.
        head: The request line and the headers, sorted, without `OWN`.
        name: The server name of the TLS session (SNI); empty if none was sent.
        peer: The common name of the certificate that the client showed; empty for none.
    """

    by: str
    head: tuple[str, ...]
    name: str = ""
    peer: str = ""


@dataclass
class Recorder:
    """Where it listens, on 127.0.0.1, and what it was asked, in order."""

    ports: dict[str, int] = field(default_factory=dict)
    bugs: list[Exception] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    names: WeakKeyDictionary[ssl.SSLObject, str] = field(default_factory=WeakKeyDictionary)

    @property
    def plain(self) -> str:
        return f"http://127.0.0.1:{self.ports['plain']}"

    @property
    def tls(self) -> str:
        return f"https://127.0.0.1:{self.ports['tls']}"

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def take(self) -> list[Seen]:
        """What was asked since the last time."""
        seen, self.seen = self.seen, []
        return seen

    def name_of(self, session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """A callback for a TLS context."""
        self.names[session] = name or ""

    async def serve(self, by: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape")
        except asyncio.IncompleteReadError:
            return  # a client that did not like our certificate
        asked, *headers = head.strip().split("\r\n")
        # kubectl tells the server how long it waits.
        asked = asked.replace("?timeout=32s ", " ")
        kept = sorted(line for line in headers if not line.lower().startswith(OWN))
        session = writer.get_extra_info("ssl_object")
        name = self.names.get(session, "") if session is not None else ""
        subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
        names = dict(pair for group in subject for pair in group)
        self.seen.append(Seen(by, (asked, *kept), name, str(names.get("commonName", ""))))
        if asked.startswith("CONNECT "):
            await self._tunnel(reader, writer)
            return
        path = asked.split()[1]
        status, more = "200 OK", ""
        if "/moved/" in path:
            status, more = "302 Found", "Location: /version\r\n"
        elif "/away/" in path:
            status, more = "302 Found", f"Location: {self.plain}/version\r\n"
        elif "/cookie/" in path:
            more = "Set-Cookie: balancer=7; Path=/\r\n"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(VERSION)}\r\n"
            f"{more}Connection: close\r\n\r\n".encode()
        )
        writer.write(VERSION)
        await writer.drain()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.ports["tls"])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
            sink.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        inner_writer.close()


@contextlib.asynccontextmanager
async def recording(contexts: Mapping[str, ssl.SSLContext]) -> AsyncIterator[Recorder]:
    """A recorder, with what it listens on over TLS: `tls`, `tls proxy`, and what else a test wants."""
    recorder = Recorder()
    servers = []
    try:
        for by in ("plain", "proxy", *contexts):
            context = contexts.get(by)
            if context is not None:
                context.sni_callback = recorder.name_of

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, by: str = by) -> None:
                try:
                    await recorder.serve(by, reader, writer)
                except (ConnectionError, ssl.SSLError):
                    pass
                except Exception as exc:
                    recorder.bugs.append(exc)
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
            servers.append(server)
            recorder.ports[by] = server.sockets[0].getsockname()[1]
        yield recorder
    finally:
        for server in servers:
            server.close()
    assert not recorder.bugs
