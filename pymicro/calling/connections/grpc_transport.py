"""The transport that every client has: grpc.aio's channels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc.aio import Metadata

from pymicro.calling.connections.options import ChannelOptions, channel_arguments, dial_target
from pymicro.calling.connections.transport import StartCall, Status
from pymicro.rpc.grpcio import cancelled_here, made_up, now

if TYPE_CHECKING:
    from pymicro.calling.connections.method import Method
    from pymicro.nodes.node import Node
    from pymicro.settings.config import Config

__all__ = ["GrpcConnection", "GrpcTransport"]

_INTERNAL = grpc.StatusCode.INTERNAL


class GrpcTransport:
    """Opens grpc.aio channels."""

    def open(self, node: Node, config: Config, options: ChannelOptions) -> GrpcConnection:
        """A connection over a channel of its own."""
        return GrpcConnection(
            grpc.aio.insecure_channel(
                dial_target(node),
                options=channel_arguments(config, node, options.options),
                compression=options.compression,
            )
        )


class GrpcConnection:
    """A grpc.aio channel as a connection; its calls are grpc.aio's own objects, so they cost nothing more."""

    __slots__ = ("_channel", "state")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
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
            raise RuntimeError(f"{call!r} is not done")
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
        return Status(
            now(call.code()),
            now(call.details()) or "",
            # Read as pairs: before grpcio 1.80, keys() of a grpc.aio Metadata gives no keys.
            Metadata(*(tuple(now(call.initial_metadata()) or ()))),
            Metadata(*(tuple(now(call.trailing_metadata()) or ()))),
            now(call.debug_error_string()),
        )

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
