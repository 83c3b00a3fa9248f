"""A name server in this process, over UDP and TCP, that answers each question as it is told.

Run as a program it asks itself through the system's resolver: see `test_selector_dns_system`.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ["HOWS", "Answer", "NameServer", "serving"]

# How a question can be answered; "records" and "truncated" (over UDP) have records.
HOWS = ("records", "nodata", "nxdomain", "servfail", "refused", "truncated", "mute")
_RCODES = {"nxdomain": dns.rcode.NXDOMAIN, "servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED}

# Records, or one of HOWS; a name that is not there at all does not exist.
Answer = list[str] | str


class NameServer(asyncio.DatagramProtocol):
    """Answers by name and type.

    Attributes:
        answers: What to say for `(name, type)`; for a name with other types only: nothing.
        records: What there is where the answer is "records" or "truncated".
        asked: Every question over UDP, as name and type.
        tcp: Every question over TCP.
        ttl: Seconds for which answers are good.
    """

    def __init__(self, answers: dict[tuple[str, str], Answer] | None = None) -> None:
        self.answers = {} if answers is None else answers
        self.records: dict[tuple[str, str], list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.tcp: list[tuple[str, str]] = []
        self.ttl = 60
        self.port = 0
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        answer = self._answer(data, self.asked, udp=True)
        if answer is not None:
            self._transport.sendto(answer, peer)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            answer = self._answer(await reader.readexactly(size), self.tcp, udp=False)
            if answer is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    def _answer(self, data: bytes, log: list[tuple[str, str]], *, udp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        log.append(key)
        there = any(name == key[0] for name, _ in self.answers)
        how = self.answers.get(key, "nodata" if there else "nxdomain")
        if how == "mute":
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if isinstance(how, str) and how in _RCODES:
            answer.set_rcode(_RCODES[how])
        elif how == "truncated" and udp:
            answer.flags |= dns.flags.TC
        elif how != "nodata":
            records = how if isinstance(how, list) else self.records.get(key, [])
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", key[1], *records))
        return answer.to_wire()

    def resolver(self) -> dns.asyncresolver.Resolver:
        """A resolver that asks this server, and has a search list that it must not use."""
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers = ["127.0.0.1"]
        made.port = self.port
        made.lifetime = 0.5
        made.search = [dns.name.from_text("attacker.test.")]
        made.use_search_by_default = True
        return made


@asynccontextmanager
async def serving(
    answers: dict[tuple[str, str], Answer] | None = None, port: int = 0
) -> AsyncIterator[NameServer]:
    """A name server on a port of its own."""
    loop = asyncio.get_running_loop()
    server = NameServer(answers)
    tcp = await asyncio.start_server(server.talk, "127.0.0.1", port)
    server.port = tcp.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", server.port))
    try:
        yield server
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()


async def _through_the_system(ask: Callable[[str], Any]) -> None:
    """Print, for each pair of answers, what the system's resolver makes of them."""
    answers: dict[tuple[str, str], Answer] = {}
    async with serving(answers, 53) as server:
        for a in HOWS:
            for aaaa in HOWS:
                name = f"{a}-{aaaa}.shop.test"
                answers[name, "A"], answers[name, "AAAA"] = a, aaaa
                server.records[name, "A"] = ["127.0.0.7"]
                server.records[name, "AAAA"] = ["::1", "::2"]

        async def one(name: str) -> None:
            try:
                found = " ".join(await ask(name)) or "none"
            except OSError:
                found = "failure"
            print(name.partition(".")[0], found)

        await asyncio.gather(*(one(name) for name, kind in list(answers) if kind == "A"))


if __name__ == "__main__":
    from pymicro.discovery.selectors.dns.lookups import SystemHosts

    hosts = SystemHosts()
    asyncio.run(_through_the_system(lambda name: hosts(name, 80)))
