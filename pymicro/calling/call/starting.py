"""How a call starts inside all interceptors, if nothing speaks against it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from pymicro.calling.call.attempts import Attempts
from pymicro.calling.call.called import Called
from pymicro.calling.call.end import End
from pymicro.calling.call.state import CallState
from pymicro.rpc.grpcio import IteratedMetadata
from pymicro.rpc.scope import scope
from pymicro.rpc.status import DeadlineExceeded, InvalidArgument, RpcError
from pymicro.rpc.wire.gomicro import FROM_SERVICE
from pymicro.rpc.wire.metadata import checked

__all__ = ["Metadata", "direct", "innermost", "misfit"]

Metadata = Any  # grpc.aio's MetadataType: Metadata or a sequence of pairs


def _refused(called: Called, error: RpcError) -> CallState:
    """A call that has ended before it began."""
    state = CallState(called)
    state.finish(End.failed(error, called.callee))
    return state


def misfit(called: Called, why: Exception) -> CallState:
    """A call that has ended before it began, since its metadata cannot be sent: what `checked` raised."""
    return _refused(called, InvalidArgument(str(why), from_peer=False))


def direct(
    called: Called,
    request: Any,
    timeout: float | None,
    metadata: Metadata,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
    compression: grpc.Compression | None,
    again: bool,
) -> CallState:
    """Start a call; every argument is final, and the metadata checked.

    Args:
        called: The method that is called.
        request: The request, or the iterator of requests; None if they are written.
        timeout: Seconds; None for no limit.
        metadata: Pairs.
        credentials: Call credentials.
        wait_for_ready: Whether to wait for a node if there is none.
        compression: Of the requests.
        again: Whether it may be retried. A handler that serves a retried call makes its own calls
            without retries: only one of three layers tries again.

    Raises:
        TypeError: The request cannot be serialized.
    """
    channel = called.channel
    if timeout is not None and timeout <= 0:
        record = (channel.target or channel.open()).record
        if record is not None:
            record.method(called.path).without[grpc.StatusCode.DEADLINE_EXCEEDED.value[0]].add(0.0)
        text = f"the timeout of {timeout:g} s was over before the call began"
        return _refused(called, DeadlineExceeded(text, from_peer=False))
    if channel.caller is not None:
        # Most calls have no other metadata, so this object is made once: grpc.aio would convert
        # a tuple for each call, which is half of what a header costs.
        metadata = _signed(metadata, channel.caller) if metadata else channel.caller
    span = None
    if channel.tracing is not None:
        span, pairs = channel.tracing.begin_call(called.path, channel.service, metadata)
        metadata = IteratedMetadata(pairs)
    data, requests = (None, request) if called.streams else (called.method.serialize(request), None)
    state = Attempts(
        called,
        channel.target or channel.open(),
        data,
        requests,
        timeout,
        metadata,
        credentials,
        compression,
        again,
    )
    state.span = span
    state.begin(bool(wait_for_ready))
    return state


def innermost(
    called: Called, details: grpc.aio.ClientCallDetails, request: Any, compression: grpc.Compression | None
) -> CallState:
    """Start a call as the interceptors left it."""
    path = details.method.decode() if isinstance(details.method, bytes) else details.method
    if path != called.path:
        called = Called(called.channel, called.method.renamed(path))
    metadata: Any = details.metadata
    if metadata:
        try:
            metadata = checked(metadata)
        except (ValueError, TypeError) as exc:
            return misfit(called, exc)
    serving = scope.get()
    return direct(
        called,
        request,
        details.timeout,
        metadata,
        details.credentials,
        details.wait_for_ready,
        compression,
        serving is None or not (serving.active and serving.retried),
    )


def _signed(metadata: Metadata, caller: grpc.aio.Metadata) -> Metadata:
    """The call's metadata plus who makes the call, unless the metadata says so itself."""
    if any(key == FROM_SERVICE for key, _ in metadata):
        return metadata
    return (*metadata, *caller)
