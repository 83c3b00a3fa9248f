"""What calls need of their channel: where they go, and what they all have in common."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Container, Mapping

import grpc.aio

from pymicro.base.loggers import logger
from pymicro.base.tasks import Tasks
from pymicro.calling.call.layers import Layers
from pymicro.calling.connections.core import ClientCore, LiveCall
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.target import Filter, Target
from pymicro.discovery.fixed import FixedNodes
from pymicro.rpc.wire.metadata import Pair, why_not_forwarded
from pymicro.rpc.wire.shape import Shape
from pymicro.telemetry.tracing import Tracing

__all__ = ["UNSET", "ChannelState", "Unset"]


class Unset(enum.Enum):
    """The type of `UNSET`: not given, where None means something."""

    UNSET = enum.auto()


UNSET = Unset.UNSET

log = logger("pymicro.client")


class ChannelState:
    """The part of a channel that its calls use.

    Attributes:
        service: The name that is looked up.
        target: Where calls go; None before the first call and after the client is closed.
        timeout: Seconds a unary call may take if the call gives no timeout; None for no limit.
        live: The client's calls in flight, those of other channels too.
        forwarded: Keys of request metadata that onward calls pass on.
        caller: Metadata in which each call says who makes it; None for nothing.
        logged: Whether each call writes a line to the log.
        tracing: Makes spans of calls; None for none.
        layers: The interceptors, for each shape of call; None without any.
    """

    def __init__(
        self,
        core: ClientCore,
        service: str,
        which: Filter,
        options: ChannelOptions,
        timeout: float | Unset | None,
        layers: Mapping[Shape, Layers] | None,
        idempotent: Container[str] = (),
        fixed: FixedNodes | None = None,
    ) -> None:
        self.service = service
        self.target: Target | None = None
        self.live: set[LiveCall] = core.live
        self.timeout: float | None = None
        self.forwarded: frozenset[str] = frozenset()
        self.caller: grpc.aio.Metadata | None = None
        self.logged = False
        self.tracing: Tracing | None = None
        self.layers = layers
        self._core = core
        self._filter = which
        self._options = options
        self._given_timeout = timeout
        self._idempotent = idempotent
        self._fixed = fixed
        self._closed = False

    @property
    def tasks(self) -> Tasks:
        """Where this channel's background work runs."""
        return self._core.tasks

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which calls are made; only after the first call."""
        return self._core.loop

    def own_calls(self) -> list[LiveCall]:
        """This channel's calls in flight."""
        return [call for call in self.live if call.called.channel is self]

    def marks(self, path: str) -> bool:
        """Whether the user told this channel that the method may run twice."""
        return path in self._idempotent

    def forwards(self, pair: Pair) -> bool:
        """Whether metadata of the call being served can go along with an onward call.

        Somebody else has sent it, so what cannot be sent is left out and fails no call.
        """
        why = why_not_forwarded(pair)
        if why is not None:
            self._core.tell_not_forwarded(pair[0], why)
        return why is None

    def open(self) -> Target:
        """Start following the service's nodes, once.

        Raises:
            PymicroError: The client is not open.
            grpc.aio.UsageError: The channel is closed.
        """
        if self._closed:
            raise grpc.aio.UsageError(f"the channel to {self.service} is closed")
        if self.target is None:
            core = self._core
            self.target = core.target(self, self.service, self._filter, self._options, self._fixed)
            # The client knows this only now: a channel may be made before the settings are read.
            given = self._given_timeout
            self.timeout = core.timeout if isinstance(given, Unset) else given
            self.forwarded = core.forwarded
            self.caller = core.caller
            self.logged = log.isEnabledFor(logging.DEBUG)
            self.tracing = core.tracing
        return self.target

    def forget(self) -> None:
        """The client is closed: the next call asks it for the target again."""
        self.target = None
