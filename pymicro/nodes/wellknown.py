"""Keys of node metadata that have a meaning for clients, and the values under them.

Anybody who may register a node or annotate a pod can write them: a value that cannot
be read counts as missing, and is never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pymicro.base.durations import format_duration, parse_duration

__all__ = [
    "ADMIN_PORT",
    "GRPC",
    "KEEPALIVE",
    "PROTOCOL",
    "TLS",
    "TLS_HERE",
    "ZONE",
    "admin_port",
    "other_protocol",
    "others_text",
    "ping_interval",
    "server_ping_interval",
    "tls_port",
    "zone_text",
]

# The zone of the node: Kubernetes' own word ("Well-Known Labels, Annotations and Taints").
ZONE = "topology.kubernetes.io/zone"
# The shortest interval between HTTP/2 pings that the server allows a client, with and without
# calls, as a Go duration (`10s`). A server that allows none does not write this key: most
# servers end the connection, and the calls on it, if the client pings more often than every
# 5 minutes or between calls (grpc-go's EnforcementPolicy, grpc-core's default).
KEEPALIVE = "keepalive"
# The node's protocol; the key is go-micro's: its servers write `grpc` or `mucp`.
PROTOCOL = "protocol"
GRPC = "grpc"
# The port of `/livez`, `/nodes` and `/stats` (docs/operating.md), for `pymicro top`.
ADMIN_PORT = "admin-port"
# Whether the node speaks TLS: `on`, or the port on which it does while its address is still plain text.
TLS = "tls"
TLS_HERE = "on"
# The topic of a subscriber; some go-micro brokers list subscribers as nodes.
_TOPIC = "topic"

# Seconds; a client never pings more often, whatever a node says. grpc-go refuses shorter
# intervals from its user too (gRFC A8, "the minimum is 10 seconds").
SHORTEST_INTERVAL = 10.0
# A duration or a protocol's name has a few characters, a name of Kubernetes at most 253.
_LONGEST_DURATION = 32
_LONGEST_PROTOCOL = 32
_LONGEST_PORT = 5
_LONGEST_ZONE = 253


def ping_interval(metadata: Mapping[str, str]) -> float | None:
    """The shortest interval of pings that a node allows, in seconds; None if it allows none."""
    text = metadata.get(KEEPALIVE, "")
    if len(text) > _LONGEST_DURATION:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError:
        return None
    return max(seconds, SHORTEST_INTERVAL)


def server_ping_interval(options: Iterable[tuple[str, object]]) -> str:
    """The value under `KEEPALIVE` for a server with these channel arguments; empty if there is none.

    The server allows pings without calls only if it is told to. It ends the connection of a
    client that sends the third ping too early (gRFC A8, "Server Enforcement").
    """
    # If an argument is there twice, the longer interval and the stricter word count.
    permits, milliseconds = [], []
    for name, value in options:
        if name == "grpc.keepalive_permit_without_calls":
            permits.append(bool(value))
        elif name == "grpc.http2.min_ping_interval_without_data_ms" and isinstance(value, int):
            milliseconds.append(value)
    if not permits or not all(permits) or not milliseconds:
        return ""
    return format_duration(max(milliseconds) / 1000)


def other_protocol(metadata: Mapping[str, str]) -> str:
    """The protocol of a node if it is not gRPC, so that nobody dials it; empty if it is gRPC.

    A node that names no protocol counts as gRPC, except a subscriber of go-micro's HTTP
    broker: that has a topic, no protocol, and a port of its own.
    """
    protocol = metadata.get(PROTOCOL)
    if not protocol:
        return "pub/sub" if _TOPIC in metadata else ""
    if protocol == GRPC:
        return ""
    return protocol if protocol.isprintable() and len(protocol) <= _LONGEST_PROTOCOL else "something else"


def others_text(protocols: Iterable[str]) -> str:
    """`2 nodes speak another protocol (http)`, given the protocol of each."""
    spoken = list(protocols)
    count = "1 node speaks" if len(spoken) == 1 else f"{len(spoken)} nodes speak"
    return f"{count} another protocol ({', '.join(sorted(set(spoken)))})"


def zone_text(found: object) -> str:
    """A zone from foreign text, if the text is fit to keep; else empty."""
    fits = isinstance(found, str) and len(found) <= _LONGEST_ZONE and found.isprintable()
    return found if fits else ""  # type: ignore[return-value]


def admin_port(metadata: Mapping[str, str]) -> int | None:
    """The port on which a node's process tells how it fares; None if it names none.

    Only the port: its host is the node's own. A record must not be able to send anybody elsewhere.
    """
    return _port(metadata.get(ADMIN_PORT, ""))


def tls_port(metadata: Mapping[str, str]) -> int | None:
    """The port of a node's host on which it speaks TLS; 0 for that of its address; None if it has none."""
    text = metadata.get(TLS, "")
    return 0 if text == TLS_HERE else _port(text)


def _port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_PORT):
        return None
    port = int(text)
    return port if 0 < port < 65536 else None
