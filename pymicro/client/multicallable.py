"""What a stub holds for each method: picks a node and starts a call on it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.balancer.base import CANCELLED, CallInfo, Pick
from pymicro.client.attempt import Attempt, log_end
from pymicro.client.call import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
    _Call,
)
from pymicro.client.deferred import Deferred
from pymicro.client.node_channel import NodeChannel
from pymicro.context import CallScope, scope
from pymicro.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.client.channel import Channel
    from pymicro.tasks import Tasks

if TYPE_CHECKING:
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable[Any, Any]
    _UnaryStream = grpc.aio.UnaryStreamMultiCallable[Any, Any]
    _StreamUnary = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    _StreamStream = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:  # older grpcio has them generic for type checkers only
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable
    _UnaryStream = grpc.aio.UnaryStreamMultiCallable
    _StreamUnary = grpc.aio.StreamUnaryMultiCallable
    _StreamStream = grpc.aio.StreamStreamMultiCallable

__all__ = [
    "MethodSpec",
    "MultiCallable",
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
]

Metadata = Any  # grpc.aio's MetadataType: Metadata or a sequence of pairs


class MethodSpec:
    """A method as a stub asks a channel for it; compared by identity.

    One exists for each method, however many stubs there are, so that a node
    channel makes its multicallable once: for a `shared` one.
    """

    __slots__ = ("_arguments", "_registered", "info", "method", "shape", "shared")

    def __init__(
        self,
        shape: Shape,
        method: str,
        request_serializer: Callable[..., Any] | None,
        response_deserializer: Callable[..., Any] | None,
        registered: bool,
        *,
        shared: bool,
    ) -> None:
        self.shared = shared
        self.method = method
        self.info = CallInfo(method)
        self.shape = shape
        self._arguments = (method, request_serializer, response_deserializer)
        self._registered = registered

    def bind(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        """The grpc.aio multicallable of this method on `channel`."""
        bound: Callable[..., Any] = getattr(channel, self.shape.value)(
            *self._arguments, _registered_method=self._registered
        )
        return bound

    def renamed(self, method: str) -> MethodSpec:
        """The same for another path; for one call, so it is not shared."""
        _, serializer, deserializer = self._arguments
        return MethodSpec(self.shape, method, serializer, deserializer, False, shared=False)


class MultiCallable:
    """Starts calls of one method on one channel.

    Args:
        channel: Ours, which knows the nodes.
        spec: The method.
    """

    call_type: type[_Call]
    _drops = True  # whether a call nobody holds any more is cancelled
    _limited = False  # whether the channel's default timeout holds for it

    def __init__(self, channel: Channel, spec: MethodSpec) -> None:
        self._channel = channel
        self._spec = spec
        self.callee = f"{channel.service}{spec.method}"

    @property
    def service(self) -> str:
        """The name that is looked up."""
        return self._channel.service

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        return self._spec.method

    @property
    def shape(self) -> Shape:
        """Which sides stream."""
        return self._spec.shape

    @property
    def tasks(self) -> Tasks:
        """Where background work of its calls runs."""
        return self._channel.tasks

    def elsewhere(self, path: str) -> MultiCallable:
        """The same with another method's path, which an interceptor may ask for."""
        if path == self._spec.method:
            return self
        return type(self)(self._channel, self._spec.renamed(path))

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
        serving = scope.get()
        if serving is not None and serving.active:
            timeout, metadata = self._inherit(serving, timeout, metadata)
        if channel.intercepted is not None:
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
        """Start a call inside all interceptors; every argument is final."""
        channel = self._channel
        found = (channel.target or channel.open()).pick(self._spec.info)
        if found is None:
            return self._start_later(
                request, timeout, metadata, credentials, bool(wait_for_ready), compression
            )
        pick, node_channel = found
        call = self._attempt(pick, node_channel, request, timeout, metadata, credentials, compression)
        return self.call_type(self.callee, call, pick.node)

    def _attempt(
        self,
        pick: Pick,
        node_channel: NodeChannel,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start the real call on the picked node. `wait_for_ready` is never handed down.

        On the channel of a dead node it would hang to the deadline; to us it means
        waiting for a node.
        """
        try:
            call = node_channel.bind(self._spec)(
                request, timeout=timeout, metadata=metadata, credentials=credentials, compression=compression
            )
        except BaseException:
            pick.done(CANCELLED)
            raise
        channel = self._channel
        Attempt(call, pick, node_channel, channel.live)
        if channel.logged:
            call.add_done_callback(log_end(self.callee, pick.node))
        return call

    def _start_later(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool,
        compression: grpc.Compression | None,
    ) -> Any:
        call = self.call_type(self.callee)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        target = self._channel.open()
        node_channel: NodeChannel | None = None

        async def begin() -> Any:
            nonlocal node_channel
            pick, node_channel = await target.wait(self._spec.info, deadline, wait_for_ready)
            left = None if deadline is None else max(0.0, deadline - loop.time())
            return self._attempt(pick, node_channel, request, left, metadata, credentials, compression)

        def node() -> Any:
            return node_channel.node if node_channel is not None else None

        self.defer(call, begin, deadline, node)
        return call

    def defer(
        self,
        call: _Call,
        begin: Callable[[], Any],
        deadline: float | None,
        node: Callable[[], Any] = lambda: None,
    ) -> None:
        """Let `call` wait for what `begin` starts."""
        held: Callable[[], _Call | None] = weakref.ref(call) if self._drops else lambda: call

        def handover(underlying: Any) -> bool:
            waiting = held()
            if waiting is None:
                return False
            waiting.begun(underlying, node())
            return True

        call._deferred = Deferred(
            begin, handover, self._channel.tasks, self._channel.live, f"call {self._spec.method}", deadline
        )

    def _inherit(
        self, serving: CallScope, timeout: float | None, metadata: Metadata
    ) -> tuple[float | None, Metadata]:
        """The deadline and metadata of an onward call of the call being served."""
        remaining = serving.time_remaining()
        if remaining is not None and (timeout is None or remaining < timeout):
            timeout = remaining
        forwarded: Sequence[tuple[str, str | bytes]] = serving.forwarded(self._channel.forwarded)
        if forwarded:
            own = list(metadata or ())
            given = {key for key, _ in own}
            metadata = (*own, *(pair for pair in forwarded if pair[0] not in given))
        return timeout, metadata


class UnaryUnaryMultiCallable(MultiCallable, _UnaryUnary):
    """`await stub.Method(request)`."""

    call_type = UnaryUnaryCall
    _drops = False
    _limited = True

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


class UnaryStreamMultiCallable(MultiCallable, _UnaryStream):
    """`async for response in stub.Method(request)`."""

    call_type = UnaryStreamCall

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


class StreamUnaryMultiCallable(MultiCallable, _StreamUnary):
    """`await stub.Method(requests)`, or with `write` and `done_writing`."""

    call_type = StreamUnaryCall

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


class StreamStreamMultiCallable(MultiCallable, _StreamStream):
    """`async for response in stub.Method(requests)`, or with `read` and `write`."""

    call_type = StreamStreamCall

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
