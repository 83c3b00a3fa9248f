"""The transport that every client has: grpc.aio's channels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc.aio import Metadata

from pymicro.base.printable import excerpt
from pymicro.calling.connections.options import ChannelOptions, channel_arguments, dial_target
from pymicro.calling.connections.tls_words import with_sentence
from pymicro.calling.connections.transport import StartCall, Status
from pymicro.rpc.grpcio import cancelled_here, made_up, now

if TYPE_CHECKING:
    from pymicro.calling.connections.client_tls import Secured
    from pymicro.calling.connections.method import Method
    from pymicro.identity.identity import Identity
    from pymicro.nodes.node import Node
    from pymicro.settings.config import Config

__all__ = ["ChannelCredentials", "GrpcConnection", "GrpcTransport", "explained"]

_INTERNAL = grpc.StatusCode.INTERNAL
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# How grpc-core begins to say that no connection was made.
_NOT_CONNECTED = "failed to connect to all addresses"


class GrpcTransport:
    """Opens grpc.aio channels."""

    def __init__(self) -> None:
        self._credentials = ChannelCredentials()

    def open(
        self, node: Node, config: Config, options: ChannelOptions, secured: Secured | None = None
    ) -> GrpcConnection:
        """A connection over a channel of its own."""
        target = dial_target(node, secured)
        arguments = channel_arguments(config, node, options.options, secured)
        compression = options.compression
        if secured is None:
            return GrpcConnection(grpc.aio.insecure_channel(target, arguments, compression))
        credentials = self._credentials.of(secured.identity)
        channel = grpc.aio.secure_channel(target, credentials, arguments, compression)
        return GrpcConnection(channel, secured)


def explained(code: grpc.StatusCode, details: str, secured: Secured | None) -> str:
    """The text of a status, with what it means if no connection was made."""
    if code is _UNAVAILABLE and details.startswith(_NOT_CONNECTED):
        return with_sentence(details, secured)
    return details


class ChannelCredentials:
    """grpc-core's form of an identity: made once, since it parses all authorities."""

    def __init__(self) -> None:
        self._last: tuple[bytes, grpc.ChannelCredentials] | None = None

    def of(self, identity: Identity) -> grpc.ChannelCredentials:
        """The credentials of an identity."""
        if self._last is None or self._last[0] != identity.digest:
            made = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.chain)
            self._last = identity.digest, made
        return self._last[1]


class GrpcConnection:
    """A grpc.aio channel as a connection; its calls are grpc.aio's own objects, so they cost nothing more."""

    __slots__ = ("_channel", "_secured", "state")

    def __init__(self, channel: grpc.aio.Channel, secured: Secured | None = None) -> None:
        self._channel = channel
        self._secured = secured
        self.state = channel.get_state

    async def change(self, last: grpc.ChannelConnectivity) -> None:
        """Return when its state differs from `last`."""
        await self._channel.wait_for_state_change(last)

    def bind(self, method: Method) -> StartCall:
        """The grpc.aio multicallable, without serializers: those of grpc.aio hide errors."""
        bound: StartCall = getattr(self._channel, method.shape.value)(
            method.path, _registered_method=method.registered
        )
        return bound

    def code(self, call: Any) -> grpc.StatusCode | None:
        """The code; None if grpc.aio has made it up because a write failed."""
        try:  # `now`, written out here because every call passes through
            call.code().send(None)
        except StopIteration as stop:
            code: grpc.StatusCode = stop.value
        else:
            raise RuntimeError(f"{excerpt(call)} is not done")
        return None if code is _INTERNAL and made_up(call) else code

    async def last_word(self, call: Any) -> None:
        """Wait until grpc.aio has replaced a status that it made up. It tells nobody, so this looks.

        The peer's status is on its way, mostly in the same turn of the loop; after a second it
        will not come any more.
        """
        for turn in range(21):
            if not made_up(call):
                return
            await asyncio.sleep(0.0 if turn < 10 else 0.001 * 2 ** (turn - 10))

    def cancelled_here(self, call: Any) -> bool:
        """Whether this side ended a call whose code is CANCELLED."""
        return cancelled_here(call)

    def status(self, call: Any) -> Status:
        """All that is known of the end of an ended call."""
        code, details = now(call.code()), now(call.details()) or ""
        return Status(
            code,
            explained(code, details, self._secured),
            # Read as pairs: before grpcio 1.80, keys() of a grpc.aio Metadata gives no keys.
            Metadata(*(tuple(now(call.initial_metadata()) or ()))),
            Metadata(*(tuple(now(call.trailing_metadata()) or ()))),
            now(call.debug_error_string()),
        )

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
