"""What a stub holds for each method: an object that picks a node and starts a call on it."""

from __future__ import annotations

import weakref
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.base.tasks import Tasks
from pymicro.calling.call.attempts import Attempts
from pymicro.calling.call.called import Waiting
from pymicro.calling.call.channel_state import ChannelState
from pymicro.calling.call.deferred import Deferred
from pymicro.calling.call.ended import Ended
from pymicro.calling.call.objects import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
    _Call,
)
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.target import wrong_loop
from pymicro.rpc.scope import CallScope, scope
from pymicro.rpc.status import InvalidArgument
from pymicro.rpc.wire.gomicro import FROM_SERVICE
from pymicro.rpc.wire.metadata import Pair, checked
from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable[Any, Any]
    _UnaryStream = grpc.aio.UnaryStreamMultiCallable[Any, Any]
    _StreamUnary = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    _StreamStream = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:  # older grpcio has generic ones for type checkers only
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable
    _UnaryStream = grpc.aio.UnaryStreamMultiCallable
    _StreamUnary = grpc.aio.StreamUnaryMultiCallable
    _StreamStream = grpc.aio.StreamStreamMultiCallable

__all__ = [
    "MultiCallable",
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
]

Metadata = Any  # grpc.aio's MetadataType: Metadata or a sequence of pairs


class MultiCallable:
    """Starts calls of one method on one channel.

    Args:
        channel: Our channel, which knows the nodes.
        method: The method.

    Attributes:
        callee: Service and method, for errors.
        drops: Whether a call is cancelled when nobody holds it any more.
        streams: Whether there is a stream of requests.
    """

    call_type: type[_Call]
    drops = True
    streams = False
    _limited = False  # whether the channel's default timeout applies to it

    def __init__(self, channel: ChannelState, method: Method) -> None:
        self._channel = channel
        self.method = method
        self.callee = f"{channel.service}{method.path}"

    @property
    def service(self) -> str:
        """The name that is looked up."""
        return self._channel.service

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        return self.method.path

    @property
    def shape(self) -> Shape:
        """Which sides stream."""
        return self.method.shape

    @property
    def idempotent(self) -> bool:
        """Whether the method may run twice: the channel or its proto says so."""
        return self._channel.marks(self.path) or self.method.idempotent

    @property
    def logged(self) -> bool:
        """Whether each call writes a line to the log."""
        return self._channel.logged

    @property
    def tasks(self) -> Tasks:
        """Where background work of its calls runs."""
        return self._channel.tasks

    def elsewhere(self, path: str) -> MultiCallable:
        """The same object with another method's path; an interceptor may ask for it."""
        if path == self.method.path:
            return self
        return type(self)(self._channel, self.method.renamed(path))

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        channel = self._channel
        if channel.target is None:
            channel.open()
        if timeout is None and self._limited:
            timeout = channel.timeout
        if metadata:
            try:
                metadata = checked(metadata)
            except (ValueError, TypeError) as exc:
                return self.refused(exc)
        serving = scope.get()
        if serving is not None and serving.active:
            timeout, metadata = self._inherit(serving, timeout, metadata)
        if channel.intercepted is not None:
            if _get_running_loop() is not channel.open().loop:  # before anything waits in it
                raise wrong_loop(channel.service)
            return channel.intercepted.call(
                self, request, timeout, metadata, credentials, wait_for_ready, compression
            )
        return self.direct(request, timeout, metadata, credentials, wait_for_ready, compression)

    def direct(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start a call inside all interceptors; every argument is final, and the metadata checked."""
        channel = self._channel
        target = channel.target or channel.open()
        if channel.caller is not None:
            # Most calls have no other metadata, so this object is made once: grpc.aio would convert
            # a tuple for each call, which is half of what a header costs.
            metadata = _signed(metadata, channel.caller) if metadata else channel.caller
        attempts = Attempts(self, target, channel.live, request, timeout, metadata, credentials, compression)
        found = target.pick(self.method.info)
        if found is None:
            call = self.call_type(self.callee)
            self.defer(call, partial(attempts.start_later, bool(wait_for_ready)), attempts.deadline)
        else:
            call = self.call_type(self.callee, attempts.start(found), found[0].node)
        call.attempts = attempts
        attempts.owner = weakref.ref(call) if self.drops else call
        return call

    def refused(self, why: Exception) -> Any:
        """A call that has ended before it began: what it was given cannot be sent."""
        return self.call_type(self.callee, Ended(InvalidArgument(str(why), from_peer=False)))

    def defer(self, call: Waiting, begin: Callable[[], Awaitable[Any]], deadline: float | None) -> None:
        """Let `call` wait for what `begin` starts."""
        held: Callable[[], Waiting | None] = weakref.ref(call) if self.drops else lambda: call

        def handover(underlying: Any) -> bool:
            waiting = held()
            if waiting is None:
                return False
            waiting.begun(underlying)
            return True

        channel = self._channel
        call.begins_later(
            Deferred(begin, handover, channel.tasks, channel.live, f"call {self.path}", deadline)
        )

    def _inherit(
        self, serving: CallScope, timeout: float | None, metadata: Metadata
    ) -> tuple[float | None, Metadata]:
        """The deadline and metadata that the call inherits from the call being served."""
        remaining = serving.time_remaining()
        if remaining is not None and (timeout is None or remaining < timeout):
            timeout = remaining
        keys = self._channel.forwarded
        forwarded: Sequence[Pair] = serving.forwarded(keys) if keys else ()
        if forwarded:
            own = tuple(metadata or ())
            given = {key for key, _ in own}
            metadata = (
                *own,
                *(pair for pair in forwarded if pair[0] not in given and self._channel.forwards(pair)),
            )
        return timeout, metadata


def _signed(metadata: Metadata, caller: grpc.aio.Metadata) -> Metadata:
    """The call's metadata plus who makes the call, unless the metadata says so itself."""
    if any(key == FROM_SERVICE for key, _ in metadata):
        return metadata
    return (*metadata, *caller)


class _OneRequest(MultiCallable):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class _Requests(MultiCallable):
    streams = True

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryUnaryMultiCallable(_OneRequest, _UnaryUnary):
    """`await stub.Method(request)`."""

    call_type = UnaryUnaryCall
    drops = False
    _limited = True


class UnaryStreamMultiCallable(_OneRequest, _UnaryStream):
    """`async for response in stub.Method(request)`."""

    call_type = UnaryStreamCall


class StreamUnaryMultiCallable(_Requests, _StreamUnary):
    """`await stub.Method(requests)`, or with `write` and `done_writing`."""

    call_type = StreamUnaryCall


class StreamStreamMultiCallable(_Requests, _StreamStream):
    """`async for response in stub.Method(requests)`, or with `read` and `write`."""

    call_type = StreamStreamCall
