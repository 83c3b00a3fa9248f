"""Methods for calls from go-micro 1.x: errors as its JSON, and its `timeout` header.

This stands between the transport and all code of ours and the user's. Dispatch, our interceptors
and grpc.aio's own see an ordinary call; only what goes out differs. Ordinary calls never
pass through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from pymicro.rpc.wire.shape import Shape
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.gomicro.caller import caller_of
from pymicro.serving.gomicro.translation import Translation

__all__ = ["Translator"]

_Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Translator:
    """Makes methods answer as go-micro's callers expect.

    Args:
        service: The name under which the service is registered.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    def context(self, call: Any) -> Translation:
        """A call as go-micro's callers want it answered."""
        return Translation(call, self._service)

    async def run(self, shape: Shape, behaviour: _Behaviour, request: Any, call: Any) -> Any:
        """Run a method for a call from go-micro; the method sees a translated `call`."""
        # go-micro's clients send 5 s with every stream and do not mean it.
        timeout = caller_of(call.invocation_metadata()).timeout if shape is Shape.UNARY_UNARY else None
        return await _within(timeout, behaviour, request, Translation(call, self._service, timeout))


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
