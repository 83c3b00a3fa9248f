"""What the fuzzer found, kept as examples: each input ran into a fault that is mended since.

A new finding: `make fuzz` prints the smallest input it has, and it goes here, under the parser's
name, with a word on what was wrong.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.pods import pod
from tests.fakes.slices import slice as endpoint_slice

__all__ = ["EXPENSIVE", "FINDINGS"]

# A little less than may be, since some are written into something else.
_LARGEST = (256 << 10) - 512
_NODES = '"nodes":[{"id":"a","address":"10.0.0.1:80"}]'


def _filled(head: str, piece: str, tail: str, size: int = _LARGEST) -> str:
    """A text of that size: `piece` as often as there is room."""
    times = (size - len(head) - len(tail)) // (len(piece) + 1)
    return f"{head}{','.join([piece] * times)}{tail}"


# What is expensive in a record: the piece that it has as often as there is room.
EXPENSIVE = {
    "endpoints": _filled(f'{{"name":"s",{_NODES},"endpoints":[', '{"name":"x"}', "]}"),
    "numbers for endpoints": _filled(f'{{"name":"s",{_NODES},"endpoints":[', "0", "]}"),
    "values of one endpoint": _filled(
        f'{{"name":"s",{_NODES},"endpoints":[{{"name":"x","request":{{"values":[', "{}", "]}}]}"
    ),
    "metadata of an endpoint": json.dumps(
        {"name": "s", "endpoints": [{"name": "x", "metadata": {str(one): "" for one in range(20_000)}}]}
    ),
    "metadata of many nodes": json.dumps(
        {
            "name": "s",
            "nodes": [
                {
                    "id": str(one),
                    "address": f"10.0.0.1:{one + 1}",
                    "metadata": {str(n): "" for n in range(40)},
                }
                for one in range(512)
            ],
        },
        separators=(",", ":"),
    ),
    "a list for a port": '{"name":"s","nodes":[{"id":"a","address":"a","port":'
    + _filled("[", "0", "]}]}", 200_000),
    "floating point": _filled(f'{{"name":"s",{_NODES},"x":[', "1e-320", "]}"),
    "long whole numbers": _filled(f'{{"name":"s",{_NODES},"x":[', "9" * 4299, "]}"),
}
_DEEP = '{"name":"s","nodes":[{"id":"a","address":"a","port":' + "[" * 900 + "]" * 900 + "}]}"


def _as_text(record: str) -> bytes:
    """The endpoints of a record as mdns carries them."""
    try:
        endpoints = json.loads(record).get("endpoints")
    except ValueError:
        endpoints = None
    return zlib.compress(json.dumps({"Service": "s", "Endpoints": endpoints}).encode()).hex().encode()


def _pod(where: str, key: str, value: Any) -> dict[str, Any]:
    one = pod(uid="u", labels={"micro.mu/type": "service", "micro.mu/selector-greeter": "service"})
    one[where][key] = value
    return one


_PLUGIN = {"command": "9" * 5000, "apiVersion": "client.authentication.k8s.io/v1beta1"}


def _kubeconfig(context: str, *, cluster: str, user: Any = None) -> str:
    """A kubeconfig with a cluster `c`, in YAML."""
    one = {"name": context, "context": {"cluster": cluster, "user": "u"}}
    return json.dumps(
        {
            "current-context": context,
            "contexts": [one],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}],
            "users": [{"name": "u", "user": user or {}}],
        }
    )


def _many(piece: Any) -> list[Any]:
    return [piece] * (_LARGEST // (len(json.dumps(piece, separators=(",", ":"))) + 1))


_ADDRESSES = _pod("status", "podIPs", [{"ip": f"fd00::{one:x}"} for one in range(12_000)])
_ADDRESSES["metadata"]["annotations"] = {
    "micro.mu/service-greeter": json.dumps(
        {"name": "greeter", "nodes": [{"id": "x", "address": f"[fd00:0::{one:x}]:80"} for one in range(512)]}
    )
}
_RECORDS = _pod("metadata", "annotations", {f"micro.mu/service-{one}": "{}" for one in range(8000)})

# 20,000 fields, of which one is there twice.
_TWICE = "{" + ",".join(f'"{one}":0' for one in range(20_000)) + ',"7":1}'


def _packet(kind: int, data: bytes) -> bytes:
    """As many records as fit into a packet, each of another name that is as long as names may be."""
    record = struct.pack("!HHIH", kind, 1, 120, len(data)) + data
    body, count = bytearray(b"\1a" * 124 + b"\0" + record), 1
    while len(body) < 65_000:
        body += b"\2" + bytes([97 + count % 26, 97 + count // 26 % 26]) + b"\xc0\x0c" + record
        count += 1
    return struct.pack("!HHHHHH", 0, 0x8400, 0, count, 0, 0) + bytes(body)


def _long_names() -> dict[str, bytes]:
    """Sections of a DNS answer: 200 targets with 120 labels, which dnspython reads in 0.3 s."""
    count = 200
    body = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", 33, 1, 60, len(target)) + target
        for target in (
            struct.pack("!HHH", 1, 0, 80) + b"\1%c" % (97 + one % 26) + b"\1a" * 115 + b"\xc0\x0c"
            for one in range(count)
        )
    )
    return {"SRV": bytes([count]) + body, "A": b"\0", "AAAA": b"\0"}


FINDINGS: Mapping[str, Sequence[tuple[str, Any]]] = {
    "record": [*EXPENSIVE.items(), ("a deep list for a port", _DEEP)],
    "etcd value": [(what, text.encode()) for what, text in EXPENSIVE.items()],
    "node file": [(what, text.encode()) for what, text in EXPENSIVE.items()],
    "mdns text": [(what, _as_text(text)) for what, text in EXPENSIVE.items()],
    "pod": [
        ("ports", _pod("spec", "containers", [{"ports": _many({})}])),
        ("containers", _pod("spec", "containers", _many({}))),
        ("addresses", _ADDRESSES),
        ("records", _RECORDS),
    ],
    "settings": [
        ("a long number", {"MICRO_REGISTER_TTL": "9" * 5000}),
        ("a long number below all", {"MICRO_REGISTER_TTL": "-" + "9" * 4000}),
        ("a number that gets too long", {"MICRO_MAX_MESSAGE_SIZE": "9" * 4299 + "GiB"}),
        ("a long item of pairs", {"MICRO_SERVER_METADATA": "9" * 5000}),
    ],
    "metadata": [("a long key", [("9" * 10_000, "\x00")]), ("a long odd key", [("?" * 10_000, "a")])],
    "proto file": [
        ("it imports what is no text", b"\n\x01a\x1a\x02\xff\xff"),
        ("it imports a long name", b"\n\x01a\x1a\x88\x27" + b"x" * 5000),
        ("a long name of a service", b"\n\x01a2\x8b\x27\n\x88\x27" + b"x" * 5000),
    ],
    "endpoint slice": [
        ("empty endpoints", {**endpoint_slice(uid="u"), "endpoints": _many({})}),
        ("addresses of a long type", {**endpoint_slice(uid="u"), "addressType": "\U0010ffff" * 5000}),
        ("ports that are no numbers", {**endpoint_slice(uid="u"), "ports": [{"port": "9" * 5000}] * 2}),
        ("ports with long names", {**endpoint_slice(uid="u"), "ports": [{"name": "a" * 253}] * 8}),
    ],
    "kubeconfig": [
        ("a long apiVersion", json.dumps({"apiVersion": "9" * 5000})),
        ("a long name of a context", _kubeconfig("9" * 5000, cluster="b")),
        ("a long name of a cluster", _kubeconfig("a", cluster="9" * 5000)),
        ("a long path", _kubeconfig("a", cluster="c", user={"tokenFile": "9" * 5000})),
        ("a long name to act as", _kubeconfig("a", cluster="c", user={"as-user-extra": {"9" * 5000: 1}})),
        ("a long program", _kubeconfig("a", cluster="c", user={"exec": _PLUGIN})),
        ("a long text after which there is no more YAML", '"' + "9" * 5000),
    ],
    "addresses in settings": [
        ("a long host", "9" * 5000),
        ("a long host and port", "x=" + "9" * 5000 + ":80"),
    ],
    "mdns packet": [
        ("thousands of ports", _packet(33, struct.pack("!HHH", 1, 1, 80) + b"\xc0\x0c")),
        ("thousands of texts", _packet(16, b"\0")),
        ("thousands of pointers", _packet(12, b"\xc0\x0c")),
    ],
    "etcd address": [("a null character in an IPv6 address", "::\0"), ("a long text", "http" * 3000)],
    "address": [
        ("a null character in an IPv6 address", "::\0"),
        ("a long host", "[fd00::1" * 3000),
        ("a long port", "10.0.0.1:" + "0" * 9000),
    ],
    "duration": [("a long text", "1h30m2.5sh30m2.5s" * 2000)],
    "plug-in's answer": [
        (
            "a long time",
            json.dumps(
                {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "status": {"token": "t", "expirationTimestamp": "20" * 3000},
                }
            ),
        )
    ],
    "DNS answer": [("long names", _long_names())],
    "text to show": [
        ("a mark of shorthand that nobody sees", "\U0001bca0"),
        ("a mark of music that nobody sees", "\U0001d173"),
        ("a joiner of hieroglyphs", "\U00013430"),
    ],
    "message as JSON": [
        ("a name that is there twice, among many", _TWICE),
        ("a long name", '{"' + "na" * 3000 + '":0}'),
    ],
    "request": [
        ("a name that is there twice, among many", _TWICE.encode()),
        ("a long name", b'{"' + b"9" * 5000 + b'":0}'),
    ],
}
