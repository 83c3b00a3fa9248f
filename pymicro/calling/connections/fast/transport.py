"""The transport `fast` of calls: it opens connections over pymicro-fast's engine."""

from __future__ import annotations

from pymicro.base.errors import ConfigError
from pymicro.calling.connections.fast.arguments import Arguments
from pymicro.calling.connections.fast.connection import FastConnection
from pymicro.calling.connections.fast.names import NamedConnections
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import NodeConnection
from pymicro.nodes.address import is_ip
from pymicro.nodes.node import Node
from pymicro.settings.config import Config
from pymicro_fast import INTERFACE, NGHTTP2

__all__ = ["FastTransport"]

# The interface of the engine that this was written for.
_WRITTEN_FOR = 1


class FastTransport:
    """Opens connections that live in the event loop.

    Raises:
        ConfigError: The installed pymicro-fast is of another pymicro.
    """

    def __init__(self) -> None:
        if INTERFACE != _WRITTEN_FOR:
            raise ConfigError(
                f"the installed pymicro-fast has interface {INTERFACE}, and this pymicro was written for "
                f"{_WRITTEN_FOR}: install both of one release, pip install --upgrade 'pymicro-grpc[fast]'"
            )

    def open(self, node: Node, config: Config, options: ChannelOptions) -> NodeConnection:
        """A connection over a socket of its own, or over one for each address behind a name.

        Raises:
            ConfigError: The address or an option means nothing to this transport.
        """
        arguments = Arguments.of(node, config, options, f"pymicro-fast (nghttp2/{NGHTTP2})")
        if node.kind == "name" and arguments.port is not None and not is_ip(arguments.host):
            return NamedConnections(arguments)
        return FastConnection(arguments)
