"""What the transport `fast` reads of a server's arguments: the same ones that grpc-core gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymicro.nodes.wellknown import server_ping_interval
from pymicro.rpc.fast.options import OptionReader
from pymicro.settings.config import Config

__all__ = ["ServerArguments"]

# grpc-core's largest times are larger than anybody waits: they mean for ever.
_FOREVER_MS = (1 << 31) - 1

# Open streams of one connection, and handlers that run for it. Each may hold a window of messages that
# were not read, so this bounds what one connection costs; more calls wait at their client.
_STREAMS = 1000
# Seconds in which a connection must have sent its first settings.
_HANDSHAKE = 20.0


@dataclass(frozen=True, slots=True)
class ServerArguments:
    """A server's settings. Times are in seconds; None means for ever, or never.

    Attributes:
        max_receive: The largest message that is received.
        max_send: The largest message that is sent; -1 for no limit.
        max_metadata: The largest block of headers that is received.
        streams: Streams that a connection may have open, and handlers that may run for it.
        handshake: How long a new connection may take to say that it speaks HTTP/2.
        age: How long a connection lives; each one a tenth more or less.
        age_grace: How long its calls may go on after that.
        idle: How long a connection lives without a call.
        keepalive: After so long without a byte from its peer a connection is asked whether it lives.
        ping_timeout: How long the answer may take.
        min_ping: The shortest time between two pings of a peer.
        idle_pings: Whether a peer may ping without calls.
        ping_strikes: How many pings may come too early; 0 for any number.
        ping_interval: What its node tells of the last three.
        reuse_port: Whether several servers may share one port.
    """

    max_receive: int
    max_send: int
    max_metadata: int
    streams: int
    handshake: float
    age: float | None
    age_grace: float | None
    idle: float | None
    keepalive: float | None
    ping_timeout: float
    min_ping: float
    idle_pings: bool
    ping_strikes: int
    ping_interval: str
    reuse_port: bool

    @classmethod
    def of(cls, config: Config, options: Sequence[tuple[str, Any]]) -> ServerArguments:
        """Those of a server.

        Args:
            config: All settings.
            options: grpc channel arguments; they override the settings.

        Raises:
            ConfigError: An argument has no meaning here, or a value that it cannot have.
        """
        given: dict[str, Any] = {
            "grpc.http2.min_ping_interval_without_data_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 1,
        }
        given.update(options)
        read = OptionReader(given, "server")
        size = read.number("grpc.max_receive_message_length", config.max_message_size)
        min_ping = read.number("grpc.http2.min_ping_interval_without_data_ms", 300_000)
        age = read.number("grpc.max_connection_age_ms", 0) / 1000 or config.max_connection_age
        made = cls(
            max_receive=size if size >= 0 else 0xFFFFFFFF,
            max_send=read.number("grpc.max_send_message_length", -1),
            max_metadata=read.number(
                "grpc.absolute_max_metadata_size", read.number("grpc.max_metadata_size", 16384)
            ),
            streams=read.number("grpc.max_concurrent_streams", _STREAMS),
            handshake=read.number("grpc.server_handshake_timeout_ms", round(_HANDSHAKE * 1000)) / 1000,
            age=age if age and age < _FOREVER_MS / 1000 else None,
            age_grace=_seconds(read.number("grpc.max_connection_age_grace_ms", _FOREVER_MS)),
            idle=_seconds(read.number("grpc.max_connection_idle_ms", _FOREVER_MS)),
            keepalive=_seconds(read.number("grpc.keepalive_time_ms", 7_200_000)),
            ping_timeout=read.number("grpc.keepalive_timeout_ms", 20_000) / 1000,
            min_ping=read.number("grpc.http2.min_recv_ping_interval_without_data_ms", min_ping) / 1000,
            idle_pings=bool(read.number("grpc.keepalive_permit_without_calls", 0)),
            ping_strikes=read.number("grpc.http2.max_ping_strikes", 2),
            ping_interval=server_ping_interval(given.items()),
            reuse_port=bool(read.number("grpc.so_reuseport", 0)),
        )
        read.refuse_others()
        return made


def _seconds(milliseconds: int) -> float | None:
    """Milliseconds as seconds; None for what is as good as never."""
    return milliseconds / 1000 if 0 < milliseconds < _FOREVER_MS else None
