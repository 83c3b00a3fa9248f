"""Options of the underlying real channels: grpc-core's arguments, and why each is set."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from pymicro._version import __version__
from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.nodes.address import is_ip, split_address
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ping_interval
from pymicro.settings.config import Config

if TYPE_CHECKING:
    from pymicro.calling.connections.client_tls import Secured

__all__ = ["ChannelOptions", "channel_arguments", "dial_target"]

Argument = tuple[str, Any]

# How long the other machine's kernel may leave data unacknowledged (seconds): less than
# the default timeout of a call, so that a marked call can be retried in time.
_UNACKNOWLEDGED = 3.0
# How long a ping may go unanswered (seconds); the process itself answers it, not the kernel.
_PING_TIMEOUT = 5.0
# Seconds added to the interval a node permits: on the way two pings can come closer together.
_MARGIN = 1.0
# As an interval of pings, the largest number turns them off; one less puts them off for 24
# days. Only with the latter does grpc-core set TCP_USER_TIMEOUT.
_NEVER = (1 << 31) - 2

_INT32 = 1 << 31


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options in which holders of a node channel must agree to share it.

    Attributes:
        options: The user's own channel arguments; they override ours.
        compression: Default compression of calls.

    Raises:
        ConfigError: grpc would refuse an option, which it does only when it connects.
    """

    options: tuple[Argument, ...] = ()
    compression: grpc.Compression | None = None

    def __post_init__(self) -> None:
        for option in self.options:
            _check(option)
        try:
            grpc.Compression(self.compression or 0)
        except ValueError:
            raise ConfigError(
                f"compression= is a grpc.Compression, and not {excerpt(self.compression)}"
            ) from None


def _check(option: Any) -> None:
    if not isinstance(option, tuple | list) or len(option) != 2 or not isinstance(option[0], str):
        raise ConfigError(f"grpc channel options are pairs of name and value, and not {excerpt(option)}")
    name, value = option
    # grpc takes anything else that has `__int__`, such as 1.5, for the address of an object.
    if not isinstance(value, int | str | bytes):
        raise ConfigError(
            f"grpc channel option {excerpt(name)} is an int, a text or bytes, and not {excerpt(value)}"
        )
    if isinstance(value, int) and not -_INT32 <= value < _INT32:
        raise ConfigError(f"grpc channel option {excerpt(name)} is {value}, which does not fit into 32 bits")
    for text in option:
        if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"grpc channel option {excerpt(name)} has {excerpt(text)}, which is no Unicode")


def channel_arguments(
    config: Config, node: Node, user: Sequence[Argument], secured: Secured | None = None
) -> list[Argument]:
    """Arguments of the real channel to `node`; the user's override ours."""
    arguments: list[Argument] = [
        # Otherwise grpc-core shares one connection between all channels to an address, and
        # closing a removed node's channel would not close its connection.
        ("grpc.use_local_subchannel_pool", 1),
        # We dial a node directly: a web proxy does not know pods or 127.0.0.1.
        ("grpc.enable_http_proxy", 0),
        # Nodes come from the registry; grpc-core need not look up a service config in DNS (TXT).
        ("grpc.service_config_disable_resolution", 1),
        # A node that restarts on the same address is reached again within 5 s. grpc-core spreads `max`
        # by 20 % either way (with 5 s the attempts were up to 6.0 s apart). The default backoff grows
        # to 120 s, and without `initial` its first pause is a second. `min` is in effect the connect
        # timeout.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 4100),
        # Sent before grpc's own user agent, which stays. Our servers tell this caller from a go-micro
        # one by it: go-micro names itself in the same header and takes errors in another form.
        ("grpc.primary_user_agent", f"pymicro/{__version__}"),
        ("grpc.max_send_message_length", config.max_sent_message_size or -1),  # -1: no limit
        ("grpc.max_receive_message_length", config.max_message_size),
        *_keepalive(config.keepalive, node),
    ]
    if node.kind == "name":
        arguments += [
            ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
            # grpc-core asks the DNS again when one of its connections ends or cannot be made, but not
            # sooner than this after the last time. The default is 30 s: too long to follow a headless
            # Service.
            ("grpc.dns_min_time_between_resolutions_ms", 5000),
        ]
    if secured is not None:
        # What is dialled is an IP address, and certificates are for names.
        arguments.append(("grpc.ssl_target_name_override", secured.name))
    # If two arguments have one name, grpc-core takes the first, so we send only the user's.
    return list({**dict(arguments), **dict(user)}.items())


def _keepalive(interval: float, node: Node) -> list[Argument]:
    """Find a dead connection: by pings if the node permits them, otherwise by data that is sent.

    grpc-core sets TCP_USER_TIMEOUT to the keepalive timeout (gRFC A18): the connection
    ends if the other machine's kernel acknowledges no data for so long. That needs no
    ping, and found a black hole half a second later, where nothing else did in 30 s
    (measured, Linux; macOS has no such option). Pings also find a black hole between
    calls, and a process that hangs.
    """
    if not interval:
        return []
    timeout = ("grpc.keepalive_timeout_ms", round(_UNACKNOWLEDGED * 1000))
    permitted = ping_interval(node.metadata)
    if permitted is None:
        return [("grpc.keepalive_time_ms", _NEVER), timeout]
    milliseconds = math.ceil(max(interval, permitted + _MARGIN) * 1000)
    return [
        ("grpc.keepalive_time_ms", min(milliseconds, _NEVER)),
        timeout,
        # This one ends a connection if the kernel acknowledges but the process does not answer (after
        # a minute if unset); the other one alone did not (grpcio 1.85).
        ("grpc.http2.ping_timeout_ms", round(_PING_TIMEOUT * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # The default is 2: then grpc-core stops pinging a silent connection after the second ping.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def dial_target(node: Node, secured: Secured | None = None) -> str:
    """The grpc-core target URI of a node."""
    address = node.address if secured is None else secured.address
    if node.kind == "name" or address.startswith("unix:"):
        return address
    try:
        host, _ = split_address(address)
    except ValueError:
        return address  # grpc-core says what is wrong with it, as UNAVAILABLE
    if not is_ip(host):
        return f"dns:///{address}"
    return f"ipv6:{address}" if ":" in host else f"ipv4:{address}"
