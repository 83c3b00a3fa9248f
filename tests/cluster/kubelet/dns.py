"""The cluster's name server: A records of Services over UDP (RFC 1035), and nothing else."""

from __future__ import annotations

import asyncio
import logging
import random
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import cast

from tests.cluster.kubelet.services import Backends

log = logging.getLogger("kubelet.dns")

A, IN = 1, 1
NO_ERROR, NO_SUCH_NAME = 0, 3
# CoreDNS's for names of the cluster.
TTL = 5


class NameServer(asyncio.DatagramProtocol):
    """Answers for what `update` said last: a Service's ClusterIP, or a headless one's ready pods."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._transport: asyncio.DatagramTransport

    def update(self, services: Iterable[Backends]) -> None:
        """The Services as they are now."""
        self._names = {
            service.name: frozenset({service.ip}) if service.ip else service.ips for service in services
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Which asyncio's own does not say of itself before Python 3.13.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            name, kind, question = parse(data)
        except (ValueError, IndexError, struct.error):
            log.warning("no question: %r from %s", data, addr)
            return
        self._transport.sendto(self.answer(data, name, kind, question), addr)

    def answer(self, query: bytes, name: str, kind: int, question: bytes) -> bytes:
        """The whole response. A headless Service without ready pods is a name that there is not."""
        found = self._names.get(name.lower(), frozenset())
        code = NO_ERROR if found else NO_SUCH_NAME
        ips = sorted(found) if kind == A else []
        # As CoreDNS has it: who takes the first only does not always take the same.
        random.shuffle(ips)
        flags = 0x8480 | (query[2] & 1) << 8 | code  # an authoritative response; recursion as asked
        header = query[:2] + struct.pack("!HHHHH", flags, 1, len(ips), 0, 0)
        records = [struct.pack("!HHHIH", 0xC00C, A, IN, TTL, 4) + IPv4Address(ip).packed for ip in ips]
        return header + question + b"".join(records)


def parse(query: bytes) -> tuple[str, int, bytes]:
    """Name, type and bytes of the one question of a query.

    Raises:
        ValueError, IndexError, struct.error: It is none.
    """
    labels: list[str] = []
    at = 12
    while length := query[at]:
        if length > 63:
            raise ValueError("a compressed name in a question")
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    kind, _ = struct.unpack_from("!HH", query, at + 1)
    return ".".join(labels), kind, query[12 : at + 5]
