"""Options of the real channels underneath: grpc-core's arguments and why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from pymicro._version import __version__
from pymicro.nodes.address import is_ip, split_address
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ping_interval
from pymicro.settings.config import Config

__all__ = ["ChannelOptions", "channel_arguments", "dial_target"]

Argument = tuple[str, Any]

# How long the other machine's kernel may leave something unacknowledged (seconds): less than
# the default timeout of a call, so that a marked call can be tried again in time.
_UNACKNOWLEDGED = 3.0
# How long a ping may go unanswered (seconds), which is the process's own work.
_PING_TIMEOUT = 5.0
# Over what a node permits: on the way two pings can come closer to each other.
_MARGIN = 1.0
# As an interval of pings the largest number means that there are none, and one less the
# same for 24 days; but only with the latter grpc-core sets TCP_USER_TIMEOUT.
_NEVER = (1 << 31) - 2


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What node channels must agree in to be shared.

    Attributes:
        options: The user's own channel arguments; they override ours.
        compression: Default compression of calls.
    """

    options: tuple[Argument, ...] = ()
    compression: grpc.Compression | None = None


def channel_arguments(config: Config, node: Node, user: Sequence[Argument]) -> list[Argument]:
    """Arguments of the real channel to `node`, the user's over ours."""
    arguments: list[Argument] = [
        # Else grpc-core shares one connection between all channels to an address, and
        # closing a removed node's channel would not close its connection.
        ("grpc.use_local_subchannel_pool", 1),
        # A node is dialled itself: a web proxy does not know pods or 127.0.0.1.
        ("grpc.enable_http_proxy", 0),
        # Nodes come from the registry; no TXT look-up for a service config.
        ("grpc.service_config_disable_resolution", 1),
        # Back within 5 s after a restart on the same address: `max` is spread by 20 % either
        # way (with 5 s the attempts were up to 6.0 s apart). The default backoff grows to
        # 120 s, and without `initial` its first pause is a second. `min` is in effect the
        # connect timeout.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 4100),
        # Before grpc's own, which stays. By it our servers tell this caller from a go-micro one,
        # which says who it is by the same header and takes errors in another form.
        ("grpc.primary_user_agent", f"pymicro/{__version__}"),
        ("grpc.max_send_message_length", config.max_message_size),
        ("grpc.max_receive_message_length", config.max_message_size),
        *_keepalive(config.keepalive, node),
    ]
    if node.kind == "name":
        arguments += [
            ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
            # grpc-core asks the DNS again when one of its connections ends or cannot be made,
            # at the earliest this long after the last time. The default is 30 s: too long
            # to follow a headless Service.
            ("grpc.dns_min_time_between_resolutions_ms", 5000),
        ]
    # Of two with one name grpc-core takes the first.
    return list({**dict(arguments), **dict(user)}.items())


def _keepalive(interval: float, node: Node) -> list[Argument]:
    """How a dead connection is found: by pings where the node permits them, else by what is sent.

    With a keepalive timeout grpc-core sets TCP_USER_TIMEOUT to it (gRFC A18): data that the
    other machine's kernel does not acknowledge for so long ends the connection. That needs
    no ping, and finds a black hole half a second later, where nothing else did in 30 s
    (measured, Linux; macOS has no such option). Pings find it between calls too,
    and a process that hangs.
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
        # It is this one that ends a connection whose kernel acknowledges while the process
        # does not answer (a minute if unset); the other one alone did not (grpcio 1.85).
        ("grpc.http2.ping_timeout_ms", round(_PING_TIMEOUT * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # The default, 2, ends the pings of a silent connection after the second one.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def dial_target(node: Node) -> str:
    """The grpc-core target URI of a node."""
    if node.kind == "name" or node.address.startswith("unix:"):
        return node.address
    try:
        host, _ = split_address(node.address)
    except ValueError:
        return node.address  # grpc-core says what is wrong with it, as UNAVAILABLE
    if not is_ip(host):
        return f"dns:///{node.address}"
    return f"ipv6:{node.address}" if ":" in host else f"ipv4:{node.address}"
