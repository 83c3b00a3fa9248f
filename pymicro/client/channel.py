"""The channel users see: a `grpc.aio.Channel` that picks a node for each call."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Container
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from pymicro.client.multicallable import (
    MethodSpec,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from pymicro.client.node_channel import Cancellable
from pymicro.client.options import ChannelOptions
from pymicro.client.outcomes import logs_calls
from pymicro.client.plan import Plan
from pymicro.client.target import Filter, Target
from pymicro.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.client.core import ClientCore
    from pymicro.client.intercepted import Interception
    from pymicro.tasks import Tasks

__all__ = ["UNSET", "Channel", "Unset"]


class Unset(enum.Enum):
    """The type of `UNSET`: not given, where None means something."""

    UNSET = enum.auto()


UNSET = Unset.UNSET

_READY = grpc.ChannelConnectivity.READY
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class Channel(grpc.aio.Channel):
    """Calls to one service, each to a node of its own.

    Made by `Client.channel` and `Service.channel`. Making one opens nothing and
    needs no event loop; the first call starts following the service's nodes.
    `close()` ends this channel object's calls only; the client keeps the
    connections for others and closes them when it is closed.

    Attributes:
        service: The name that is looked up.
        target: Where calls go; None before the first call and after the client is closed.
        timeout: Seconds a unary call may take unless told otherwise; None for no limit.
        live: Calls in flight, to end when the channel is closed.
        forwarded: Keys of request metadata that onward calls carry along.
        caller: What each call says of who makes it; None for nothing.
        logged: Whether each call is a line in the log.
        intercepted: The interceptors; None without any.
    """

    def __init__(
        self,
        core: ClientCore,
        service: str,
        which: Filter,
        options: ChannelOptions,
        timeout: float | Unset | None,
        intercepted: Interception | None,
        idempotent: Container[str] = (),
    ) -> None:
        self.service = service
        self.target: Target | None = None
        self.live: set[Cancellable] = set()
        self.timeout: float | None = None
        self.forwarded: frozenset[str] = frozenset()
        self.caller: grpc.aio.Metadata | None = None
        self.logged = False
        self.intercepted = intercepted
        self._core = core
        self._filter = which
        self._options = options
        self._given_timeout = timeout
        self._idempotent = idempotent
        self._closed = False

    @property
    def tasks(self) -> Tasks:
        """Where this channel's background work runs."""
        return self._core.tasks

    def marks(self, path: str) -> bool:
        """Whether the method was named here as one that may run twice."""
        return path in self._idempotent

    def open(self) -> Target:
        """Follow the service's nodes, unless that has begun.

        Raises:
            PymicroError: The client is not open.
            grpc.aio.UsageError: The channel is closed.
        """
        if self._closed:
            raise grpc.aio.UsageError(f"the channel to {self.service} is closed")
        if self.target is None:
            core = self._core
            self.target = core.target(self, self.service, self._filter, self._options)
            # Known only now: a channel may be made before the settings are read.
            given = self._given_timeout
            self.timeout = core.timeout if isinstance(given, Unset) else given
            self.forwarded = core.forwarded
            self.caller = core.caller
            self.logged = logs_calls()
        return self.target

    def forget(self) -> None:
        """The client is closed: the next call asks it anew."""
        self.target = None

    async def close(self, grace: float | None = None) -> None:
        """End this channel object's calls, after `grace` seconds if given."""
        self._closed = True
        self.target = None
        if grace:
            calls = [item.call for item in self.live if isinstance(item, Plan)]
            waits = [asyncio.ensure_future(call.code()) for call in calls]
            if waits:
                _, late = await asyncio.wait(waits, timeout=grace)
                for wait in late:
                    wait.cancel()
        for item in list(self.live):
            item.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the best node; IDLE before the first call unless told to connect."""
        if self._closed:
            return _SHUTDOWN
        if self.target is None and not try_to_connect:
            return grpc.ChannelConnectivity.IDLE
        return self.open().connectivity

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return as soon as the best node's state is another one."""
        target = self.open()
        while not self._closed and target.connectivity is last_observed_state:
            await target.change()

    async def channel_ready(self) -> None:
        """Return as soon as one node is READY."""
        while self.get_state(try_to_connect=True) is not _READY:
            await self.open().change()

    def _spec(
        self,
        shape: Shape,
        method: str,
        request_serializer: Callable[..., Any] | None,
        response_deserializer: Callable[..., Any] | None,
        registered: bool | None,
    ) -> MethodSpec:
        return self._core.spec(shape, method, request_serializer, response_deserializer, bool(registered))

    # Generated stubs of grpcio-tools 1.64 and later pass _registered_method.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        spec = self._spec(
            Shape.UNARY_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryUnaryMultiCallable(self, spec)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        spec = self._spec(
            Shape.UNARY_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryStreamMultiCallable(self, spec)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        spec = self._spec(
            Shape.STREAM_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamUnaryMultiCallable(self, spec)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[..., Any] | None = None,
        response_deserializer: Callable[..., Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        spec = self._spec(
            Shape.STREAM_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamStreamMultiCallable(self, spec)
