"""The transport `fast` of calls: it opens connections over pymicro-fast's engine."""

from __future__ import annotations

import ssl

from pymicro.calling.connections.client_tls import Secured
from pymicro.calling.connections.fast.arguments import Arguments
from pymicro.calling.connections.fast.connection import FastConnection
from pymicro.calling.connections.fast.names import NamedConnections
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import NodeConnection
from pymicro.identity.contexts import client_context
from pymicro.identity.identity import Identity
from pymicro.nodes.address import is_ip
from pymicro.nodes.node import Node
from pymicro.settings.config import Config
from pymicro_fast import NGHTTP2

__all__ = ["FastTransport"]


class FastTransport:
    """Opens connections that live in the event loop."""

    def __init__(self) -> None:
        self._last: tuple[bytes, ssl.SSLContext] | None = None

    def _context(self, identity: Identity) -> ssl.SSLContext:
        """Made once for each identity, since it parses all authorities."""
        if self._last is None or self._last[0] != identity.digest:
            self._last = identity.digest, client_context(identity)
        return self._last[1]

    def open(
        self, node: Node, config: Config, options: ChannelOptions, secured: Secured | None = None
    ) -> NodeConnection:
        """A connection over a socket of its own, or over one for each address behind a name.

        Raises:
            ConfigError: The address or an option means nothing to this transport.
        """
        arguments = Arguments.of(
            node,
            config,
            options,
            f"pymicro-fast (nghttp2/{NGHTTP2})",
            secured,
            self._context(secured.identity) if secured is not None else None,
        )
        if node.kind == "name" and arguments.port is not None and not is_ip(arguments.host):
            return NamedConnections(arguments)
        return FastConnection(arguments)
