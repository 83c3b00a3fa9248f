"""DNS messages of mdns as bytes: questions, and answers that hold one node each.

Reading is python-zeroconf's (`DNSIncoming`), which has met every broken packet
there is; it comes with the extra `mdns` and is imported here only. Writing is
our own: zeroconf's writer cuts a message at 1,460 bytes, and go-micro looks
for all records of a node in one message.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from pymicro.base.errors import PluginError

__all__ = [
    "ANY",
    "LARGEST",
    "PTR",
    "SRV",
    "TTL",
    "TXT",
    "Answer",
    "Instance",
    "MdnsQuestion",
    "Pointer",
    "Query",
    "Seen",
    "read",
    "require_zeroconf",
    "write_answer",
    "write_query",
]

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
_IN = 1
# Of a question's class: the answer may come to the asker alone (RFC 6762 5.4).
_UNICAST = 0x8000
# A response with authority (RFC 6762 18).
_RESPONSE = 0x8400

# go-micro's, of every record.
TTL = 120
# RFC 6762 17: an Ethernet jumbo frame, without the headers of IPv6 and UDP.
LARGEST = 8952
_LONGEST_STRING = 255


@dataclass(frozen=True, slots=True)
class MdnsQuestion:
    """What is asked for.

    Attributes:
        name: With the final dot.
        kind: The type of record.
        unicast: The asker wants no answer to everybody.
    """

    name: str
    kind: int = PTR
    unicast: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A message that asks.

    Attributes:
        known: Names that the asker need not be told: it has them from before (RFC 6762 7.1).
    """

    id: int
    questions: tuple[MdnsQuestion, ...]
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pointer:
    """A PTR record: `target` is one of `name`."""

    name: str
    target: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A name with a port at an address, and a text.

    Attributes:
        host: The name that the address is said to be of.
        address: An IPv4 or IPv6 address.
        text: Of any length; it is cut into strings.
    """

    name: str
    host: str
    port: int
    address: str
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one message says of a name.

    Attributes:
        port: 0 if it says nothing of it.
        addresses: IPv4 first.
        text: None if it says nothing of it.
        ttl: Seconds until this is to be forgotten; 0 means now.
    """

    name: str
    port: int
    addresses: tuple[str, ...]
    text: bytes | None
    ttl: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A message that answers or announces."""

    pointers: tuple[Pointer, ...]
    instances: tuple[Seen, ...]


# Writing


class _Writer:
    """A message that grows; a name's ending that was there before is a reference to it (RFC 1035 4.1.4)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._names: dict[tuple[bytes, ...], int] = {}

    def pack(self, form: str, *values: int) -> None:
        self.data += struct.pack(f"!{form}", *values)

    def name(self, name: str) -> None:
        labels = tuple(label.encode() for label in name.removesuffix(".").split("."))
        for start in range(len(labels)):
            rest = labels[start:]
            at = self._names.get(rest)
            if at is not None:
                self.pack("H", 0xC000 | at)
                return
            if len(self.data) < 0x4000:  # a reference has 14 bits
                self._names[rest] = len(self.data)
            self.data.append(len(labels[start]))
            self.data += labels[start]
        self.data.append(0)

    def question(self, question: MdnsQuestion) -> None:
        self.name(question.name)
        self.pack("HH", question.kind, _IN | (_UNICAST if question.unicast else 0))

    def record(self, name: str, kind: int, ttl: int) -> int:
        """Begin a record; returns where its length belongs."""
        self.name(name)
        self.pack("HHIH", kind, _IN, ttl, 0)
        return len(self.data) - 2

    def end(self, at: int) -> None:
        self.data[at : at + 2] = struct.pack("!H", len(self.data) - at - 2)

    def strings(self, text: bytes) -> None:
        for start in range(0, max(len(text), 1), _LONGEST_STRING):  # one at least, RFC 6763 6.1
            part = text[start : start + _LONGEST_STRING]
            self.data.append(len(part))
            self.data += part


def write_query(question: MdnsQuestion, id: int = 0) -> bytes:
    """A message that asks one question."""
    writer = _Writer()
    writer.pack("HHHHHH", id, 0, 1, 0, 0, 0)
    writer.question(question)
    return bytes(writer.data)


def write_answer(
    instance: Instance,
    *,
    pointer: str = "",
    question: MdnsQuestion | None = None,
    id: int = 0,
    ttl: int = TTL,
) -> bytes:
    """All that is to be said of one name.

    The order is go-micro's, whose reader needs SRV before A. Bits that tell
    others to flush their caches are not set, as go-micro does not.

    Args:
        pointer: The name that a PTR record in front says this is one of.
        question: What it answers, for an asker that is no mdns client (RFC 6762 6.7).
        id: The query's, likewise.
        ttl: 0 says that the name is gone.

    Raises:
        ValueError: The message would have more than LARGEST bytes.
    """
    writer = _Writer()
    writer.pack("HHHHHH", id, _RESPONSE, 1 if question else 0, 4 if pointer else 3, 0, 0)
    if question:
        writer.question(question)
    if pointer:
        at = writer.record(pointer, PTR, ttl)
        writer.name(instance.name)
        writer.end(at)
    at = writer.record(instance.name, SRV, ttl)
    writer.pack("HHH", 10, 1, instance.port)  # priority and weight are go-micro's
    writer.name(instance.host)
    writer.end(at)
    version6 = ":" in instance.address
    at = writer.record(instance.host, AAAA if version6 else A, ttl)
    writer.data += socket.inet_pton(socket.AF_INET6 if version6 else socket.AF_INET, instance.address)
    writer.end(at)
    at = writer.record(instance.name, TXT, ttl)
    writer.strings(instance.text)
    if len(writer.data) > LARGEST:
        raise ValueError(f"its message has {len(writer.data)} bytes, and {LARGEST} are the most")
    writer.end(at)
    return bytes(writer.data)


# Reading


@cache
def require_zeroconf() -> ModuleType:
    """python-zeroconf.

    Raises:
        PluginError: It is not installed.
    """
    try:
        import zeroconf
    except ImportError as exc:
        raise PluginError("registry mdns needs zeroconf: pip install 'pymicro-grpc[mdns]'") from exc
    return zeroconf


def read(data: bytes) -> Query | Answer:
    """What a message says.

    Records that are of no interest here, or broken, are passed over.

    Raises:
        ValueError: It is no DNS message.
    """
    zeroconf = require_zeroconf()
    message = zeroconf.DNSIncoming(data)
    if not message.valid:
        raise ValueError("it is no DNS message")
    if message.flags & 0x780F:
        raise ValueError("its opcode or response code is not 0")  # to be ignored, RFC 6762 18
    pointers: list[Pointer] = []
    services: dict[str, tuple[str, int, int]] = {}
    addresses: dict[str, list[str]] = {}
    texts: dict[str, tuple[bytes, int]] = {}
    for record in message.answers():
        ttl = int(record.ttl)
        if record.class_ != _IN:
            continue
        if isinstance(record, zeroconf.DNSPointer) and record.type == PTR:
            pointers.append(Pointer(record.name, record.alias, ttl))
        elif isinstance(record, zeroconf.DNSService):
            services[record.name] = (record.server, record.port, ttl)
        elif isinstance(record, zeroconf.DNSAddress):
            family = socket.AF_INET if record.type == A else socket.AF_INET6
            addresses.setdefault(record.name, []).append(socket.inet_ntop(family, record.address))
        elif isinstance(record, zeroconf.DNSText):
            texts[record.name] = (_joined(record.text), ttl)
    if message.is_query():
        questions = tuple(
            MdnsQuestion(question.name, question.type, bool(question.unique))
            for question in message.questions
        )
        # Suppression ends at half the time, RFC 6762 7.1.
        known = frozenset(pointer.target for pointer in pointers if pointer.ttl >= TTL // 2)
        return Query(message.id, questions, known)
    return Answer(tuple(pointers), tuple(_instances(services, addresses, texts)))


def _instances(
    services: dict[str, tuple[str, int, int]],
    addresses: dict[str, list[str]],
    texts: dict[str, tuple[bytes, int]],
) -> Iterable[Seen]:
    for name in dict.fromkeys((*services, *texts)):
        host, port, ttl = services.get(name, ("", 0, TTL))
        text, text_ttl = texts.get(name, (None, TTL))
        ips = sorted(addresses.get(host, ()), key=lambda ip: ":" in ip)
        yield Seen(name, port, tuple(ips), text, min(ttl, text_ttl))


def _joined(data: bytes) -> bytes:
    """The strings of a TXT record as one; one that is cut off is left out."""
    parts, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            break
        parts.append(data[at + 1 : end])
        at = end
    return b"".join(parts)
