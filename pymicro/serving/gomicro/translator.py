"""Handlers for calls from go-micro 1.x: errors as its JSON, and its `timeout` header.

This stands between grpc and all code of ours and the user's. Dispatch, our interceptors
and grpc.aio's own see an ordinary call; only what goes out differs. Ordinary calls never
pass through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from pymicro.rpc.wire.shape import Shape
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.gomicro.caller import caller_of
from pymicro.serving.gomicro.translation import Translation

__all__ = ["Translator"]

_Behaviour = Callable[[Any, Any], Any]


class Translator(grpc.aio.ServerInterceptor):
    """Makes methods answer as go-micro's callers expect.

    As a grpc.aio interceptor it belongs in front of the user's own, so that it translates
    their errors too. If the user has none, the router calls `translated` itself: a single
    interceptor would slow down every call.

    Args:
        service: The name under which the service is registered.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The inner handler; for calls from go-micro, its `translated` form."""
        handler = await continuation(handler_call_details)
        if handler is None or not caller_of(handler_call_details.invocation_metadata).go_micro:
            return handler
        return self.translated(handler)

    def translated(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """The same method for calls from go-micro."""
        shape = Shape.of(bool(handler.request_streaming), bool(handler.response_streaming))
        behaviour = _translated(getattr(handler, shape.value), self._service, shape)
        make = getattr(grpc, f"{shape.value}_rpc_method_handler")
        made: grpc.RpcMethodHandler[Any, Any] = make(
            behaviour, handler.request_deserializer, handler.response_serializer
        )
        return made


def _translated(behaviour: _Behaviour, service: str, shape: Shape) -> _Behaviour:
    async def awaited(request: Any, context: Any) -> Any:
        return await behaviour(request, Translation(context, service))

    async def bounded(request: Any, context: Any) -> Any:
        timeout = caller_of(context.invocation_metadata()).timeout
        return await _within(timeout, behaviour, request, Translation(context, service, timeout))

    async def iterated(request: Any, context: Any) -> None:
        context = Translation(context, service)
        async with contextlib.aclosing(behaviour(request, context)) as responses:
            async for message in responses:
                await context.write(message)

    def threaded(request: Any, context: Any) -> Any:
        return behaviour(request, Translation(context, service))

    # The kinds of functions that grpc.aio distinguishes, tested in the same way.
    if inspect.isasyncgenfunction(behaviour):
        return iterated
    if not inspect.iscoroutinefunction(behaviour):
        return threaded
    return bounded if shape is Shape.UNARY_UNARY else awaited


async def _within(timeout: float | None, behaviour: _Behaviour, request: Any, context: Translation) -> Any:
    """Run a handler no longer than go-micro's `timeout`, as grpc does with its own deadline."""
    by_grpc = context.given_time()
    # go-micro's clients send both. Then grpc's timer runs already, and the caller's own grpc-core
    # ends the call.
    if not timeout or (by_grpc is not None and by_grpc <= timeout):
        return await behaviour(request, context)
    try:
        async with asyncio.timeout(timeout) as limit:
            return await behaviour(request, context)
    except TimeoutError:
        if not limit.expired():
            raise  # it comes from the user's grpc interceptor; dispatch lets none out
        if context.done():
            return None  # the handler's status was on its way
        trailing = (*(context.trailing_metadata() or ()), FROM_PEER)
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded", trailing)
