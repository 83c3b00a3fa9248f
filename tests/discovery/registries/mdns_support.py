"""What tests of registry `mdns` share: a link of their own, and peers that use nothing of its code.

Packets are made and read by dnspython here.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pymicro.discovery.registries.mdns import MdnsRegistry, MdnsTiming
from pymicro.nodes.node import Node
from pymicro.settings.config import load

GROUP = "224.0.0.251"

# First sets come sooner, and a node that is killed is missed after a second or so.
QUICK = MdnsTiming(quiet=0.02, empty=0.15, answer=0.15, first=0.1, longest=0.3)

PATIENCE = 10.0


def free_port() -> int:
    """A UDP port of this test's own: two runs of the tests must not hear each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make(port: int, *, timing: MdnsTiming = QUICK) -> MdnsRegistry:
    """A registry on the loopback interface."""
    return MdnsRegistry(load({"registry_address": f"127.0.0.1:{port}"}, environ={}), timing=timing)


def node(number: int = 1, service: str = "greeter", **changes: object) -> Node:
    """A node of `service`."""
    fields: dict[str, object] = {
        "id": f"{service}-{number}",
        "address": f"127.0.0.1:{20000 + number}",
        "service": service,
        "version": "1.2.3",
        "metadata": {"protocol": "grpc"},
    }
    return Node(**(fields | changes))  # type: ignore[arg-type]


# A peer that uses nothing of the registry's code


@dataclass
class Heard:
    """One packet."""

    data: bytes = field(repr=False)
    source: tuple[str, int]
    at: float

    @functools.cached_property
    def message(self) -> dns.message.Message:
        # In the order of the packet, and without joining records that belong together.
        return dns.message.from_wire(self.data, one_rr_per_rrset=True)

    @property
    def records(self) -> list[tuple[str, str, int, Any]]:
        """Name, type, TTL and content of each record, in their order."""
        return [
            (rrset.name.to_unicode(), dns.rdatatype.to_text(rrset.rdtype), rrset.ttl, rdata)
            for section in (self.message.answer, self.message.additional)
            for rrset in section
            for rdata in rrset
        ]

    @property
    def kinds(self) -> list[str]:
        return [kind for _, kind, _, _ in self.records]

    def of(self, kind: str) -> Any:
        """The content of the only record of a type."""
        (found,) = (rdata for _, this, _, rdata in self.records if this == kind)
        return found


class Ear(asyncio.DatagramProtocol):
    """A socket and what came to it."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[Heard] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.packets.put_nowait(Heard(data, addr, asyncio.get_running_loop().time()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def next(self, within: float = PATIENCE) -> Heard:
        """The next packet."""
        return await asyncio.wait_for(self.packets.get(), within)

    async def next_question(self, within: float = PATIENCE) -> Heard:
        """The next packet that asks."""
        while True:
            heard = await self.next(within)
            if not heard.message.flags & dns.flags.QR:
                return heard

    async def next_told(self, within: float = PATIENCE) -> Heard:
        """The next packet that tells."""
        while True:
            heard = await self.next(within)
            if heard.message.flags & dns.flags.QR:
                return heard


@dataclass
class Peer:
    """Somebody on the link: one socket in the group, and one of its own."""

    port: int
    group: Ear
    own: Ear

    def ask(self, name: str, kind: str = "PTR", *, id: int = 7, known: Iterable[Any] = ()) -> float:
        """Ask as go-micro does: one question, from a port of its own; returns when that was."""
        message = dns.message.make_query(dns.name.from_unicode(name), kind, id=id)
        message.flags = 0
        message.answer.extend(known)
        self.own.transport.sendto(message.to_wire(), (GROUP, self.port))
        return asyncio.get_running_loop().time()

    def tell(self, *packets: bytes, to: tuple[str, int] | None = None) -> None:
        """Send packets to the group, or answer one asker."""
        for packet in packets:
            self.group.transport.sendto(packet, to or (GROUP, self.port))

    async def answers(self, count: int, within: float = PATIENCE) -> list[Heard]:
        """So many packets that came to the own port."""
        return [await self.own.next(within) for _ in range(count)]


@asynccontextmanager
async def peer(port: int) -> AsyncIterator[Peer]:
    """A peer on the loopback interface."""
    loop = asyncio.get_running_loop()
    ears = []
    for bound in ((GROUP, port), ("127.0.0.1", 0)):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.bind(bound)
        loopback = socket.inet_aton("127.0.0.1")
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        if bound[0] == GROUP:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + loopback)
        transport, ear = await loop.create_datagram_endpoint(Ear, sock=opened)
        ear.transport = transport
        ears.append(ear)
    try:
        yield Peer(port, *ears)
    finally:
        for ear in ears:
            ear.transport.close()
            await ear.lost.wait()


def packed(document: Any) -> list[bytes]:
    """go-micro's TXT strings of a JSON document."""
    text = zlib.compress(json.dumps(document).encode()).hex().encode()
    return [text[start : start + 255] for start in range(0, len(text), 255)]


def unpacked(rdata: Any) -> Any:
    """The JSON document of go-micro's TXT record."""
    return json.loads(zlib.decompress(bytes.fromhex(b"".join(rdata.strings).decode())))


def record(name: str, kind: str, content: str, ttl: int = 120) -> dns.rrset.RRset:
    """One record as people write it."""
    return dns.rrset.from_text(dns.name.from_unicode(name), ttl, "IN", kind, content)


def text_record(name: str, strings: Iterable[bytes], ttl: int = 120) -> dns.rrset.RRset:
    """A TXT record."""
    wire = b"".join(bytes([len(part)]) + part for part in strings)
    rdata = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.TXT, wire, 0, len(wire))
    return dns.rrset.from_rdata(dns.name.from_unicode(name), ttl, rdata)


def response(*records: dns.rrset.RRset) -> bytes:
    """A message that tells."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    message.answer.extend(records)
    return message.to_wire(max_size=65535)


def said(
    number: int = 1,
    service: str = "greeter",
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    ttl: int = 120,
    strings: Iterable[bytes] | None = None,
    document: Any = None,
    pointer: bool = True,
) -> bytes:
    """What a go-micro node says, with one thing or another changed."""
    name = f"{service}-{number}.{service}.micro."
    if strings is None:
        strings = packed(
            document
            or {
                "Service": service,
                "Version": "1.2.3",
                "Endpoints": None,
                "Metadata": {"protocol": "grpc"},
            }
        )
    records = [
        record(name, "SRV", f"10 1 {20000 + number if port is None else port} host.", ttl),
        record("host.", "AAAA" if ":" in address else "A", address, ttl),
        text_record(name, strings, ttl),
    ]
    if pointer:
        records.insert(0, record(f"{service}.micro.", "PTR", name, ttl))
    return response(*records)
