"""Keys of node metadata that clients give a meaning, and what stands under them.

Whoever may register a node, or annotate a pod, writes these: what cannot be
read says nothing, and is never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pymicro.base.durations import format_duration, parse_duration

__all__ = [
    "GRPC",
    "KEEPALIVE",
    "PROTOCOL",
    "ZONE",
    "other_protocol",
    "others_text",
    "ping_interval",
    "server_ping_interval",
    "zone_text",
]

# Where the node runs: Kubernetes' own word ("Well-Known Labels, Annotations and Taints").
ZONE = "topology.kubernetes.io/zone"
# The shortest interval between a client's HTTP/2 pings that the server takes, with and
# without calls, as a Go duration (`10s`). A server that takes none does not say it: most
# end the connection, and the calls on it, when they are pinged more often than every
# 5 minutes or between calls (grpc-go's EnforcementPolicy, grpc-core's default).
KEEPALIVE = "keepalive"
# What the node speaks, go-micro's key: its servers write `grpc` or `mucp`.
PROTOCOL = "protocol"
GRPC = "grpc"
# What a subscriber is subscribed to, where a go-micro broker lists those as nodes.
_TOPIC = "topic"

# Whatever a node says, seconds. grpc-go takes no shorter interval of its user either
# (gRFC A8, "the minimum is 10 seconds").
SHORTEST_INTERVAL = 10.0
# A duration and a protocol's name have a few characters, a name of Kubernetes at most 253.
_LONGEST_DURATION = 32
_LONGEST_PROTOCOL = 32
_LONGEST_ZONE = 253


def ping_interval(metadata: Mapping[str, str]) -> float | None:
    """The shortest interval of pings that a node permits, in seconds; None if it permits none."""
    text = metadata.get(KEEPALIVE, "")
    if len(text) > _LONGEST_DURATION:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError:
        return None
    return max(seconds, SHORTEST_INTERVAL)


def server_ping_interval(options: Iterable[tuple[str, object]]) -> str:
    """What a server started with these channel arguments says under `KEEPALIVE`; empty if nothing.

    It takes pings without calls only where it is told to, and ends the connection
    of whoever sends the third one too early (gRFC A8, "Server Enforcement").
    """
    # Of two with one name the longer interval, and the stricter word.
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
    """What a node speaks that is not gRPC, so that it is not dialled; empty if it is.

    Who does not say is taken to speak gRPC, but for the subscribers of go-micro's HTTP
    broker: they have a topic, no protocol, and a port of their own.
    """
    protocol = metadata.get(PROTOCOL)
    if not protocol:
        return "pub/sub" if _TOPIC in metadata else ""
    if protocol == GRPC:
        return ""
    return protocol if protocol.isprintable() and len(protocol) <= _LONGEST_PROTOCOL else "something else"


def others_text(protocols: Iterable[str]) -> str:
    """`2 nodes speak another protocol (http)`, given what each of them speaks."""
    spoken = list(protocols)
    count = "1 node speaks" if len(spoken) == 1 else f"{len(spoken)} nodes speak"
    return f"{count} another protocol ({', '.join(sorted(set(spoken)))})"


def zone_text(found: object) -> str:
    """A zone as it may be kept of what somebody wrote; empty if it is none."""
    fits = isinstance(found, str) and len(found) <= _LONGEST_ZONE and found.isprintable()
    return found if fits else ""  # type: ignore[return-value]
