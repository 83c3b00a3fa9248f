"""DNS messages of mdns as bytes: questions, and answers that hold one node each.

python-zeroconf reads (`DNSIncoming`): it has met every broken packet there is. It comes
with the extra `mdns`, and only this module imports it. We write messages ourselves:
zeroconf's writer cuts a message at 1,460 bytes, but go-micro looks for all records of a
node in one message.
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
# In a question's class: the answer may go to the asker alone (RFC 6762 5.4).
_UNICAST = 0x8000
# A response with authority (RFC 6762 18).
_RESPONSE = 0x8400

# go-micro's TTL for every record.
TTL = 120
# RFC 6762 17: an Ethernet jumbo frame, without the headers of IPv6 and UDP.
LARGEST = 8952
_LONGEST_STRING = 255
# The most records and questions of one message that is read. One with a node has four; one that
# asks lists what the asker knows already, which in an Ethernet frame is some dozens.
_MOST_RECORDS = 1024


_HEADER = struct.Struct("!4x4H")


@dataclass(frozen=True, slots=True)
class MdnsQuestion:
    """One question.

    Attributes:
        name: With the final dot.
        kind: The type of record.
        unicast: The asker does not want the answer to go to everybody.
    """

    name: str
    kind: int = PTR
    unicast: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A message that asks.

    Attributes:
        known: Names that the asker knows already, so nobody need tell it (RFC 6762 7.1).
    """

    id: int
    questions: tuple[MdnsQuestion, ...]
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pointer:
    """A PTR record: `target` is one instance of `name`."""

    name: str
    target: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A name with a port at an address, and a text.

    Attributes:
        host: The host name that gets the address.
        address: An IPv4 or IPv6 address.
        text: Of any length; the writer cuts it into strings.
    """

    name: str
    host: str
    port: int
    address: str
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one message says about a name.

    Attributes:
        port: 0 if the message has none.
        addresses: IPv4 first.
        text: None if the message has none.
        ttl: Seconds until the reader must forget this; 0 means now.
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
    """A growing message; an ending of a name that occurred before becomes a reference (RFC 1035 4.1.4)."""

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
        """Begin a record; returns where to write its length."""
        self.name(name)
        self.pack("HHIH", kind, _IN, ttl, 0)
        return len(self.data) - 2

    def end(self, at: int) -> None:
        self.data[at : at + 2] = struct.pack("!H", len(self.data) - at - 2)

    def strings(self, text: bytes) -> None:
        for start in range(0, max(len(text), 1), _LONGEST_STRING):  # at least one, RFC 6763 6.1
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
    """A message with all records of one name.

    The order is go-micro's: its reader needs SRV before A. As in go-micro, no bits tell
    others to flush their caches.

    Args:
        pointer: The name for a PTR record in front, which says that this is one of its instances.
        question: The question, for an asker that is no mdns client (RFC 6762 6.7).
        id: The query's id, likewise.
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
        PluginError: zeroconf is not installed.
    """
    try:
        import zeroconf
    except ImportError as exc:
        raise PluginError("registry mdns needs zeroconf: pip install 'pymicro-grpc[mdns]'") from exc
    return zeroconf


def read(data: bytes) -> Query | Answer:
    """Read a message.

    It skips records that are broken or that we do not need.

    Raises:
        ValueError: The data is no DNS message, or has more records than any that is meant well.
    """
    zeroconf = require_zeroconf()
    # The header's last four numbers: they are all that the parser goes by.
    if len(data) >= _HEADER.size and sum(_HEADER.unpack_from(data)) > _MOST_RECORDS:
        raise ValueError(f"it is no DNS message, or one that claims more than {_MOST_RECORDS} records")
    message = zeroconf.DNSIncoming(data)
    if not message.valid:
        raise ValueError("it is no DNS message")
    if message.flags & 0x780F:
        raise ValueError("its opcode or response code is not 0")  # RFC 6762 18 says to ignore it
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
        # A known answer counts only before half its TTL has passed, RFC 6762 7.1.
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
    """The strings of a TXT record as one; a string that is cut off is left out."""
    parts, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            break
        parts.append(data[at + 1 : end])
        at = end
    return b"".join(parts)
