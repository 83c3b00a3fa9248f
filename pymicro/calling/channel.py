"""The channel users see: a `grpc.aio.Channel` that picks a node for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from pymicro.base.copies import NotCopied
from pymicro.calling.call.channel_state import ChannelState
from pymicro.calling.call.multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from pymicro.calling.connections.method import Method
from pymicro.rpc.wire.shape import Shape

__all__ = ["Channel"]


_READY = grpc.ChannelConnectivity.READY
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class Channel(NotCopied, ChannelState, grpc.aio.Channel):
    """Calls to one service, each to a node of its own.

    Made by `Client.channel` and `Service.channel`. Making one opens nothing and
    needs no event loop; the first call starts following the service's nodes.
    `close()` ends this channel object's calls only; the client keeps the
    connections for others and closes them when it is closed.
    """

    async def close(self, grace: float | None = None) -> None:
        """End this channel object's calls, after `grace` seconds if given."""
        self._closed = True
        target, self.target = self.target, None
        if target is not None:
            target.wake()  # for who waits for a state
        if grace:
            ends = [asyncio.ensure_future(call.outcome()) for call in self.own_calls()]
            if ends:
                _, late = await asyncio.wait(ends, timeout=grace)
                for end in late:
                    end.cancel()
        for call in self.own_calls():
            call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the best node; IDLE before the first call unless `try_to_connect` is set."""
        if self._closed:
            return _SHUTDOWN
        if self.target is None and not try_to_connect:
            return grpc.ChannelConnectivity.IDLE
        return self.open().connectivity

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return as soon as the best node's state changes.

        Raises:
            grpc.aio.UsageError: The channel is closed, or is closed meanwhile.
        """
        while self.open().connectivity is last_observed_state:
            await self.open().change()

    async def channel_ready(self) -> None:
        """Return as soon as one node is READY.

        Raises:
            grpc.aio.UsageError: The channel is closed, or is closed meanwhile.
        """
        while self.open().connectivity is not _READY:
            await self.open().change()

    def _method(
        self,
        shape: Shape,
        method: str,
        request_serializer: Callable[..., Any] | None,
        response_deserializer: Callable[..., Any] | None,
        registered: bool | None,
    ) -> Method:
        path = method.decode() if isinstance(method, bytes) else method
        return self._core.method(shape, path, request_serializer, response_deserializer, bool(registered))

    # Generated stubs of grpcio-tools 1.64 and later pass _registered_method.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        made = self._method(
            Shape.UNARY_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryUnaryMultiCallable(self, made)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        made = self._method(
            Shape.UNARY_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryStreamMultiCallable(self, made)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        made = self._method(
            Shape.STREAM_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamUnaryMultiCallable(self, made)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        made = self._method(
            Shape.STREAM_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamStreamMultiCallable(self, made)
