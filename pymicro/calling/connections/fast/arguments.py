"""What the transport `fast` reads of a node channel's arguments: the same ones that grpc-core gets."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import grpc

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, shortened
from pymicro.calling.connections.client_tls import Secured
from pymicro.calling.connections.options import ChannelOptions, channel_arguments
from pymicro.nodes.address import split_address
from pymicro.nodes.node import Node
from pymicro.rpc.fast.options import OptionReader
from pymicro.settings.config import Config

__all__ = ["Arguments"]

# What grpc-core knows and what has no object here: connections are not shared, no proxy is asked, names are
# resolved when they are dialled, and nothing is traced.
_WITHOUT_OBJECT = {
    "grpc.use_local_subchannel_pool",
    "grpc.enable_http_proxy",
    "grpc.service_config_disable_resolution",
    "grpc.service_config",
    "grpc.dns_min_time_between_resolutions_ms",
    "grpc.dns_enable_srv_queries",
    "grpc.http2.bdp_probe",
    "grpc.enable_retries",
    "grpc.so_reuseport",
    "grpc.channelz_max_channel_trace_event_memory_per_node",
    "grpc.enable_channelz",
    "grpc.optimization_target",
}
# Any larger interval of pings means none: grpc-core's own largest one is 24 days.
_NEVER_MS = (1 << 31) - 2


@dataclass(frozen=True, slots=True)
class Arguments:
    """One connection's settings. Times are in seconds.

    Attributes:
        host: What is dialled; a path for a Unix socket, with `port` None.
        port: Its port.
        authority: What requests name as `:authority`.
        user_agent: Of requests.
        compression: Of requests that do not say.
        max_send: The largest message that is sent; -1 for no limit.
        max_receive: The largest message that is received.
        max_metadata: The largest block of headers that is received.
        first_backoff: The pause after the first attempt to connect.
        most_backoff: The longest pause.
        connect_timeout: How long an attempt may take at least.
        keepalive: Between two pings; None for none.
        ping_timeout: How long a ping may go unanswered.
        unacknowledged: How long the other machine may leave data unacknowledged; None for no limit.
        idle_pings: Whether it pings between calls.
        secured: How it is encrypted; None for plain text.
        context: What encrypts it.
        server_name: The name that the peer's certificate must have; empty for plain text.
    """

    host: str
    port: int | None
    authority: str
    user_agent: str
    compression: grpc.Compression | None
    max_send: int
    max_receive: int
    max_metadata: int
    first_backoff: float
    most_backoff: float
    connect_timeout: float
    keepalive: float | None
    ping_timeout: float
    unacknowledged: float | None
    idle_pings: bool
    secured: Secured | None = None
    context: ssl.SSLContext | None = None
    server_name: str = ""

    @classmethod
    def of(
        cls,
        node: Node,
        config: Config,
        options: ChannelOptions,
        user_agent: str,
        secured: Secured | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Arguments:
        """Those of a connection to `node`.

        Args:
            node: The node.
            config: All settings.
            options: The channel's own.
            user_agent: What follows pymicro's name.
            secured: How the connection is encrypted; None for plain text.
            context: What encrypts it.

        Raises:
            ConfigError: An argument has no meaning here; or the address is none.
        """
        given = dict(channel_arguments(config, node, options.options, secured))
        host, port, authority = _dialled(node.address if secured is None else secured.address)
        read = OptionReader(given, "channel", _WITHOUT_OBJECT)
        interval = read.number("grpc.keepalive_time_ms", _NEVER_MS)
        waits = read.number("grpc.keepalive_timeout_ms", -1)
        largest = read.number("grpc.max_receive_message_length", -1)
        made = cls(
            host=host,
            port=port,
            authority=read.text("grpc.default_authority", authority),
            user_agent=" ".join(
                filter(
                    None,
                    (
                        read.text("grpc.primary_user_agent", ""),
                        user_agent,
                        read.text("grpc.secondary_user_agent", ""),
                    ),
                )
            ),
            compression=options.compression,
            max_send=read.number("grpc.max_send_message_length", -1),
            max_receive=largest if largest >= 0 else 0xFFFFFFFF,
            max_metadata=read.number(
                "grpc.absolute_max_metadata_size", read.number("grpc.max_metadata_size", 16384)
            ),
            first_backoff=read.number("grpc.initial_reconnect_backoff_ms", 1000) / 1000,
            most_backoff=read.number("grpc.max_reconnect_backoff_ms", 120_000) / 1000,
            connect_timeout=read.number("grpc.min_reconnect_backoff_ms", 20_000) / 1000,
            keepalive=interval / 1000 if interval < _NEVER_MS else None,
            ping_timeout=read.number("grpc.http2.ping_timeout_ms", max(waits, 20_000)) / 1000,
            unacknowledged=waits / 1000 if waits > 0 else None,
            idle_pings=bool(read.number("grpc.keepalive_permit_without_calls", 0)),
            secured=secured,
            context=context,
            server_name=read.text("grpc.ssl_target_name_override", ""),
        )
        read.number("grpc.http2.max_pings_without_data", 0)  # there is no limit
        read.refuse_others()
        return made


def _dialled(address: str) -> tuple[str, int | None, str]:
    """Host, port and authority; of a Unix socket its path, None, and the authority that grpc-core sends."""
    address.encode()  # a name that is no Unicode fails here, and not at each attempt to connect
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return path.removeprefix("//") if path.startswith("///") else path, None, "localhost"
    scheme, colon, rest = address.partition(":///")
    if colon:
        if scheme != "dns":
            raise ConfigError(
                f"transport fast does not know the addresses {shortened(scheme, 20)}:…, "
                f"as in {excerpt(address)}"
            )
        address = rest
    else:
        address = address.removeprefix("dns:")
    try:
        host, port = split_address(address)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    return host, port, address
