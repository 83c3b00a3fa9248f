"""Parsers of small texts, and of the DNS."""

from __future__ import annotations

import json
import re
import struct
import tempfile
import threading
import unicodedata
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.nameserver
import dns.query
import dns.rdatatype
import dns.rrset
from hypothesis import strategies as st

from pymicro.base.durations import format_duration, parse_duration
from pymicro.base.errors import ConfigError, PymicroError, RegistryError
from pymicro.base.printable import as_argument, escaped_json, printable
from pymicro.cli.up_file import read_services
from pymicro.discovery.registries.etcd.endpoints import find_endpoints
from pymicro.discovery.registries.etcd.keys import key_of
from pymicro.discovery.registries.mdns.interfaces import place
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.registries.static import StaticRegistry
from pymicro.discovery.selectors.dns.lookups import ServiceRecords
from pymicro.nodes.address import is_dns_name, is_ip, join_address, split_address
from pymicro.nodes.keys import label_problem, san
from pymicro.nodes.wellknown import zone_text
from pymicro.runtime.admin_port import admin_address
from pymicro.runtime.advertise import advertised_address
from pymicro.runtime.lines import PrintedLines, harmless
from pymicro.settings.config import load, settings
from pymicro.settings.file import read_file
from tests.fuzz.inputs import TEXTS, altered_bytes, altered_text
from tests.fuzz.parser import Parser, refusal, runner

__all__ = ["PARSERS"]

# Small ones


def _duration(found: str | float) -> None:
    if isinstance(found, float):
        # Six digits are written.
        assert abs(parse_duration(format_duration(found)) - found) <= max(found * 1e-5, 1e-12)
        return
    assert 0 <= parse_duration(found) < float("inf")


def _address(found: str) -> None:
    is_dns_name(found), zone_text(found), label_problem(found), san(found), is_ip(found)
    host, port = split_address(found)
    assert 0 <= port < 65536
    if "]" not in host and "[" not in host and host:
        assert split_address(join_address(host, port)) == (host, port)


def _etcd_address(found: str) -> None:
    find_endpoints(load({"registry_address": [found]}, environ={}))


def _addresses(found: str) -> None:
    config = load(
        {"registry_address": [found], "admin_address": found, "server_advertise": found}, environ={}
    )
    for read in (
        lambda: StaticRegistry(config),
        lambda: place(config.registry_address),
        lambda: admin_address(config, "static", service=True),
        lambda: advertised_address(found, ("127.0.0.1", 80), MemoryRegistry(config)),
    ):
        assert len(refusal(read, ConfigError)) < 1000


def _etcd_key(found: tuple[str, str]) -> None:
    key = key_of(*found)
    assert key.count("/") == 4


_VARIABLES = tuple(one.variable for one in settings().values())


def _settings(found: dict[str, str]) -> None:
    load(environ=found)


def _shown(found: str) -> None:
    shown = printable(found)
    unseen = {"Cc", "Zl", "Zp", "Cs"}
    assert not [char for char in shown if unicodedata.category(char) in unseen and char not in "\t\n"]
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not [char for char in shown if unicodedata.bidirectional(char) in turning]
    assert json.loads(escaped_json(json.dumps(found, ensure_ascii=False))) == json.loads(json.dumps(found))
    assert "\n" not in as_argument(found)


# The folder of a thread's own, into which files are written that are read again at once.
_FOLDER = threading.local()


def _file(found: str) -> None:
    if not hasattr(_FOLDER, "made"):
        _FOLDER.made = tempfile.TemporaryDirectory()
    path = Path(_FOLDER.made.name) / "pymicro.toml"
    path.write_bytes(found.encode("utf-8", "surrogatepass"))
    read = read_file(path)
    known = {key for key in read.lines if len(key) == 1}
    assert known <= {(name,) for name in read.tables}
    for ask in (lambda: load(argv=[f"--config={path}"], environ={}), lambda: read_services(read)):
        assert len(refusal(ask, PymicroError)) < 2000


def _printed(found: list[bytes]) -> None:
    cut = PrintedLines(40)
    lines = [line for piece in found for line in cut.feed(piece)]
    assert len(lines) == b"".join(found).count(b"\n")
    for line in (*lines, cut.take()):
        assert len(line) < 80
        for coloured in (True, False):
            text = harmless(line, coloured=coloured)
            assert "\n" not in text
            assert coloured or "\x1b" not in text
            plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
            assert plain == printable(plain)
            assert text.endswith("\x1b[0m") or "\x1b" not in text


_TOML = """\
[settings]
zone = "a" # b
server_metadata = { a = "b" }
ready_after = [
  "c",
]
[services.a]
command = ["true"]
env.X = '''
d'''
replicas = 2
[services.a.settings]
stop_grace = 1.5
"""


# The DNS


class _Server(dns.nameserver.Nameserver):
    """Answers each question with the answer section of its type, whatever is in that."""

    def __init__(self, sections: dict[str, bytes]) -> None:
        self._sections = sections

    def __str__(self) -> str:
        return "the fuzzer"

    def kind(self) -> str:
        return "fuzz"

    def is_always_max_size(self) -> bool:
        return True

    def answer_nameserver(self) -> str:
        return "127.0.0.1"

    def answer_port(self) -> int:
        return 53

    async def async_query(self, request: dns.message.QueryMessage, *_: Any, **__: Any) -> dns.message.Message:
        (question,) = request.question
        section = self._sections[dns.rdatatype.to_text(question.rdtype)]
        asked = question.name.to_wire() + struct.pack("!HH", question.rdtype, question.rdclass)
        head = struct.pack("!HHHHHH", request.id, 0x8180, 1, section[0] if section else 0, 0, 0)
        answer = dns.message.from_wire(head + asked + section[1:])
        # As dnspython itself has it.
        if not request.is_response(answer):
            raise dns.query.BadResponse
        return answer


def _section(kind: str, *records: str) -> bytes:
    """The number of answers, and the answers; names refer to the question's."""
    query = dns.message.make_query("_shop._tcp.test.", kind)
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text("_shop._tcp.test.", 60, "IN", kind, *records))
    # No references but to the question, whose name is not always as long.
    wire = dns.message.from_wire(answer.to_wire()).answer[0]
    body = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", wire.rdtype, wire.rdclass, wire.ttl, len(data)) + data
        for data in (one.to_wire() for one in wire)
    )
    return bytes([len(records)]) + body


_SECTIONS = st.fixed_dictionaries(
    {
        "SRV": altered_bytes(
            _section("SRV", "1 0 80 a.shop.test.", "1 0 81 b.shop.test.", "2 0 82 c.shop.test.")
        ),
        "A": altered_bytes(_section("A", "10.0.0.1", "10.0.0.2"), b"\0"),
        "AAAA": altered_bytes(_section("AAAA", "fd00::1"), b"\0"),
    }
)


def _dns(found: dict[str, bytes]) -> None:
    def resolver() -> dns.asyncresolver.Resolver:
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers = [_Server(found)]
        made.lifetime = 0.05
        return made

    records = runner().run(ServiceRecords.look_up("_shop._tcp.test", resolver))
    for ip, port in records.addresses:
        assert is_ip(ip)
        assert 0 < port < 65536


PARSERS = (
    Parser("etcd key", st.tuples(TEXTS, TEXTS), _etcd_key, (ValueError,)),
    Parser(
        "etcd address",
        TEXTS | altered_text(st.just("https://etcd.shop:2379/")),
        _etcd_address,
        (ConfigError,),
    ),
    Parser(
        "addresses in settings",
        TEXTS | altered_text(st.sampled_from(("greeter=10.0.0.1:80", "[fd00::1]:5353", "0.0.0.0:9464"))),
        _addresses,
    ),
    Parser(
        "duration", TEXTS | altered_text(st.just("1h30m2.5s")) | st.floats(0, 1e9), _duration, (ValueError,)
    ),
    Parser(
        "address",
        TEXTS | altered_text(st.sampled_from(("10.0.0.1:80", "[fd00::1]:80", "shop.test:80"))),
        _address,
        (ValueError,),
    ),
    Parser(
        "settings", st.dictionaries(st.sampled_from(_VARIABLES), TEXTS, max_size=6), _settings, (ConfigError,)
    ),
    Parser("file with settings", altered_text(st.just(_TOML)) | TEXTS, _file, (ConfigError,), aside=True),
    Parser(
        "output of a program",
        st.lists(
            altered_bytes(b"\x1b[31mred\x1b[0m \x1b[2J\xc3\xb6\r\n", b"\n\x1b[1;38;5;9m\xff\r")
            | st.binary(max_size=90)
        ),
        _printed,
    ),
    Parser("text to show", TEXTS | st.text(), _shown),
    Parser("DNS answer", _SECTIONS, _dns, (RegistryError,), aside=True),
)
