"""What a stub holds for each method: an object that starts calls of it."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.base.copies import NotCopied
from pymicro.base.durations import FOREVER, time_limit
from pymicro.calling.call.called import Called
from pymicro.calling.call.conducted import Conducted
from pymicro.calling.call.layers import Layers
from pymicro.calling.call.objects import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from pymicro.calling.call.starting import Metadata, direct, misfit
from pymicro.calling.call.state import CallState
from pymicro.calling.call.writes import Writes
from pymicro.calling.connections.target import wrong_loop
from pymicro.rpc.scope import CallScope, scope
from pymicro.rpc.wire.metadata import Pair, checked

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
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
]


class _MultiCallable(NotCopied, Called):
    """Starts calls of one method on one channel."""

    _object: Callable[[CallState], Any]  # what the user gets
    _limited = False  # whether the channel's default timeout applies to it

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        channel = self.channel
        target = channel.target or channel.open()
        if _get_running_loop() is not target.loop:
            raise wrong_loop(channel.service)
        if timeout is None:
            if self._limited:
                timeout = channel.timeout
        elif not (type(timeout) in (int, float) and timeout < FOREVER):
            timeout = time_limit(timeout)
        if metadata:
            try:
                metadata = checked(metadata)
            except (ValueError, TypeError) as exc:
                return self._object(misfit(self, exc))
        serving = scope.get()
        again = True
        if serving is not None and serving.active:
            timeout, metadata = self._inherit(serving, timeout, metadata)
            again = not serving.retried
        if channel.layers is not None:
            layers = channel.layers[self.shape]
            if layers:
                return self._conduct(
                    layers, request, timeout, metadata, credentials, wait_for_ready, compression
                )
        return self._object(
            direct(self, request, timeout, metadata, credentials, wait_for_ready, compression, again)
        )

    def _conduct(
        self,
        layers: Layers,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start a call through interceptors."""
        details = grpc.aio.ClientCallDetails(
            self.path.encode(),  # type: ignore[arg-type] # these are bytes, as in grpc.aio
            timeout,
            metadata if isinstance(metadata, grpc.aio.Metadata) else grpc.aio.Metadata(*(metadata or ())),
            credentials,
            wait_for_ready,
        )
        writes = Writes() if self.streams and request is None else None
        state = Conducted(self, layers, request if writes is None else writes, timeout, compression)
        call: Any = self._object(state)
        if writes is not None:
            call.write_to(writes)
        state.begin(details)
        return call

    def _inherit(
        self, serving: CallScope, timeout: float | None, metadata: Metadata
    ) -> tuple[float | None, Metadata]:
        """The deadline and metadata that the call inherits from the call being served."""
        remaining = serving.time_remaining()
        if remaining is not None and (timeout is None or remaining < timeout):
            timeout = remaining
        keys = self.channel.forwarded
        forwarded: Sequence[Pair] = serving.forwarded(keys) if keys else ()
        if forwarded:
            own = tuple(metadata or ())
            given = {key for key, _ in own}
            metadata = (
                *own,
                *(pair for pair in forwarded if pair[0] not in given and self.channel.forwards(pair)),
            )
        return timeout, metadata


class _OneRequest(_MultiCallable):
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


class _ManyRequests(_MultiCallable):
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

    _object = UnaryUnaryCall
    _limited = True


class UnaryStreamMultiCallable(_OneRequest, _UnaryStream):
    """`async for response in stub.Method(request)`."""

    _object = UnaryStreamCall


class StreamUnaryMultiCallable(_ManyRequests, _StreamUnary):
    """`await stub.Method(requests)`, or with `write` and `done_writing`."""

    _object = StreamUnaryCall


class StreamStreamMultiCallable(_ManyRequests, _StreamStream):
    """`async for response in stub.Method(requests)`, or with `read` and `write`."""

    _object = StreamStreamCall
