"""A call whose own task was cancelled in this process is answered: grpc sends nothing for it.

grpc cancels the task of a call whose caller has gone. A handler can cancel that task as well,
and so can whoever got hold of it: then the caller would wait until its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from grpc.aio import AbortError, BaseError

from pymicro.rpc.scope import scope
from pymicro.rpc.status import Internal
from pymicro.rpc.wire.metadata import IDEMPOTENT
from pymicro.rpc.wire.shape import Shape
from pymicro.rpc.wire.status import to_wire

__all__ = ["answer_cancelled", "answering"]

log = logging.getLogger("pymicro.server")


def answering(
    handler: grpc.RpcMethodHandler[Any, Any], context_for: Callable[[Any], Any] | None = None
) -> grpc.RpcMethodHandler[Any, Any]:
    """The same method; a cancellation that leaves it is answered (see `answer_cancelled`).

    Args:
        context_for: Makes of grpc's context the one by which the answer is sent.
    """
    shape = Shape.of(bool(handler.request_streaming), bool(handler.response_streaming))
    behaviour = getattr(handler, shape.value)

    async def awaited(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except asyncio.CancelledError as exc:
            await answer_cancelled(context_for(context) if context_for else context, exc)

    async def iterated(request: Any, context: Any) -> None:
        try:
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for message in responses:
                    await context.write(message)
        except asyncio.CancelledError as exc:
            await answer_cancelled(context_for(context) if context_for else context, exc)

    # The kinds of functions that grpc.aio tells apart, tested in the same way.
    if inspect.isasyncgenfunction(behaviour):
        around: Any = iterated
    elif inspect.iscoroutinefunction(behaviour):
        around = awaited
    else:
        return handler  # it runs in a thread
    make = getattr(grpc, f"{shape.value}_rpc_method_handler")
    made: grpc.RpcMethodHandler[Any, Any] = make(
        around, handler.request_deserializer, handler.response_serializer
    )
    return made


async def answer_cancelled(context: Any, exc: asyncio.CancelledError) -> NoReturn:
    """End a call that a CancelledError is about to leave for grpc.

    This belongs outside all interceptors: one of them may have cancelled the task itself, as
    `asyncio.timeout` does, and be waiting for the exception.

    Only an attempt to send a status shows whether the caller is still there.

    Args:
        context: grpc's.

    Raises:
        AbortError: The caller was there; it has got INTERNAL.
        CancelledError: `exc`, as the caller has gone.
    """
    if context.done():
        raise exc
    ident = secrets.token_hex(4)
    code, details = context.code(), context.details()
    before = tuple(context.trailing_metadata() or ())
    wire = to_wire(Internal(f"internal error, id {ident}"), before)
    idempotent = (IDEMPOTENT,) if IDEMPOTENT in before else ()
    try:
        await context.abort(wire.code, wire.details, (*wire.trailing, *idempotent))
    except AbortError:
        text = "%s: internal error, id %s: its task was cancelled in this process, not by the caller"
        log.error(text, getattr(scope.get(), "method", "a call"), ident, exc_info=exc)
        raise
    except BaseError:
        # Done callbacks see the status as it was: nothing was sent.
        context.set_code(code)
        context.set_details(details or "")
    raise exc
