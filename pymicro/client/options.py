"""Options of the real channels underneath: grpc-core's arguments and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from pymicro.address import is_ip, split_address
from pymicro.config import Config
from pymicro.node import Node

__all__ = ["ChannelOptions", "channel_arguments", "dial_target"]

Argument = tuple[str, Any]


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
        # Back within 5 s after a restart on the same address. The default backoff grows to
        # 120 s, and without `initial` its first pause is a second. `min` is in effect the
        # connect timeout.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.max_send_message_length", config.max_message_size),
        ("grpc.max_receive_message_length", config.max_message_size),
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
