"""Calls through interceptors, outside pick and retries: interceptors run once for each call of the user.

grpc.aio's own intercepted calls end in a private channel of grpc.aio, so they
cannot run above a pick. Here interceptors of grpc.aio's four classes and of our
own form run in one chain, the first one outermost, and the chain ends in one of
our call objects.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from pymicro.base.errors import ConfigError
from pymicro.calling.call.ended import Ended
from pymicro.calling.call.outgoing import intercept
from pymicro.calling.call.writes import Writes
from pymicro.rpc.wire.metadata import checked
from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["Interception"]

# Runs the rest of the chain: (details, request or requests) -> call.
Continue = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]

_FOREIGN: dict[Shape, tuple[type, str]] = {
    Shape.UNARY_UNARY: (grpc.aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    Shape.UNARY_STREAM: (grpc.aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    Shape.STREAM_UNARY: (grpc.aio.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    Shape.STREAM_STREAM: (grpc.aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
}


@dataclass(frozen=True, slots=True)
class Interception:
    """The interceptors of a channel, by call shape."""

    _chains: dict[Shape, tuple[Any, ...]]

    @classmethod
    def of(cls, interceptors: Sequence[Any]) -> Self | None:
        """The chain of these interceptors, the first one outermost; None without any.

        Raises:
            ConfigError: An interceptor is neither of grpc.aio's classes nor a coroutine function.
        """
        for interceptor in interceptors:
            if isinstance(interceptor, grpc.aio.ClientInterceptor):
                continue
            if not (
                inspect.iscoroutinefunction(interceptor)
                or inspect.iscoroutinefunction(getattr(type(interceptor), "__call__", None))  # noqa: B004
            ):
                raise ConfigError(
                    f"{interceptor!r} is no client interceptor: neither `async def interceptor(call, "
                    "proceed)` nor an object of one of grpc.aio's client interceptor classes"
                )
        if not interceptors:
            return None
        return cls(
            {
                shape: tuple(
                    item
                    for item in interceptors
                    if isinstance(item, kind) or not isinstance(item, grpc.aio.ClientInterceptor)
                )
                for shape, (kind, _) in _FOREIGN.items()
            }
        )

    def call(
        self,
        called: Called,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start a call through the chain; return the call object for the user."""
        chain = self._chains[called.shape]
        if not chain:
            return called.direct(request, timeout, metadata, credentials, wait_for_ready, compression)
        details = grpc.aio.ClientCallDetails(
            called.path.encode(),  # type: ignore[arg-type] # these are bytes, as in grpc.aio
            timeout,
            metadata if isinstance(metadata, grpc.aio.Metadata) else grpc.aio.Metadata(*(metadata or ())),
            credentials,
            wait_for_ready,
        )
        writes = None
        if request is None and called.shape.request_streaming:
            request = writes = Writes()

        async def last(details: grpc.aio.ClientCallDetails, request: Any) -> Any:
            path = details.method.decode() if isinstance(details.method, bytes) else details.method
            metadata: Any = details.metadata
            if metadata:  # an interceptor may have added to it
                try:
                    metadata = checked(metadata)
                except (ValueError, TypeError) as exc:
                    return called.refused(exc)
            return called.elsewhere(path).direct(
                request,
                details.timeout,
                metadata,
                details.credentials,
                details.wait_for_ready,
                compression,
            )

        async def begin() -> Any:
            return await _run(called, chain, last, details, request)

        loop = asyncio.get_running_loop()
        outer: Any = called.call_type(called.callee)
        if writes is not None:
            outer.write_to(writes)
        called.defer(outer, begin, None if timeout is None else loop.time() + timeout)
        return outer


async def _run(
    called: Called,
    chain: tuple[Any, ...],
    last: Continue,
    details: grpc.aio.ClientCallDetails,
    request: Any,
) -> Any:
    if not chain:
        return await last(details, request)
    interceptor, rest = chain[0], chain[1:]
    inner: Any = None

    async def proceed(details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        nonlocal inner
        inner = await _run(called, rest, last, details, request)
        return inner

    if not isinstance(interceptor, grpc.aio.ClientInterceptor):
        return await intercept(interceptor, called, proceed, details, request)
    result = await getattr(interceptor, _FOREIGN[called.shape][1])(proceed, details, request)
    if isinstance(result, grpc.aio.Call):
        return result
    if called.shape.response_streaming:
        return _IteratedCall(inner if inner is not None else Ended(), result)
    return Ended(response=result)


class _Delegate:
    """A call object that behaves like another one, except for what its class defines."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _IteratedCall(_Delegate):
    """A call whose responses come from an iterator that an interceptor returned."""

    def __init__(self, call: Any, responses: Any) -> None:
        super().__init__(call)
        self._responses: AsyncIterator[Any] = aiter(responses)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses

    async def read(self) -> Any:
        return await anext(self._responses, grpc.aio.EOF)
