"""Calls that are refused before their handler runs, and the proof of that for callers.

The trailer `pymicro-not-started` lets a caller retry on another node, whatever the
method does. So only this module writes it, in front of the handlers, where no
exception of a handler can reach.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from pymicro.rpc.grpcio import CallerGone, let_events_arrive
from pymicro.rpc.scope import scope
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, Pair
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.call.context import CallContext

if TYPE_CHECKING:
    from pymicro.serving.call.context import Serving
    from pymicro.serving.call.rpc_codec import RpcCodec

__all__ = ["abort_unstarted", "begin", "refuse_start"]

log = logging.getLogger("pymicro.server")

# Seconds between two log lines about a full server: it refuses thousands of calls a second.
_LOG_EVERY = 10.0


def begin(context: Any, codec: RpcCodec, serving: Serving) -> CallContext | None:
    """Accept a call; None if `refuse_start` must end it. A plain function, since every call passes here.

    Args:
        context: As in `refusal.refuse`.
    """
    remaining = context.time_remaining()
    if remaining == 0 or len(serving.calls) >= serving.limit:
        return None
    now = serving.last = time.monotonic()
    call = CallContext(context, codec, serving, None if remaining is None else now + remaining)
    call.began = now
    if codec.handler.idempotent:
        call.mark_idempotent()
    serving.calls.add(call)
    if serving.tracing is not None:
        call.span = serving.tracing.begin_served(codec.path, context.invocation_metadata() or ())
    scope.set(call)  # never reset: the call has its own task, and so its own ContextVar
    return call


async def refuse_start(context: Any, codec: RpcCodec, serving: Serving) -> NoReturn:
    """End a call that does not begin: its deadline has passed, or the server has too many calls.

    Raises:
        AbortError: As `context.abort` does.
    """
    more = (IDEMPOTENT,) if codec.handler.idempotent else ()
    expired = context.time_remaining() == 0
    if serving.record is not None:
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.RESOURCE_EXHAUSTED
        serving.record.refuse(codec.path, "expired" if expired else "full", code.value[0])
    if expired:
        log.debug("%s: not started, its deadline has passed", codec.path)
        text = "the deadline had passed before the call was started"
        await abort_unstarted(context, grpc.StatusCode.DEADLINE_EXCEEDED, text, more)
    _tell_of_full(serving)
    text = f"this server works on {serving.limit} calls already: its max_concurrent_calls"
    await abort_unstarted(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text, more)


async def abort_unstarted(
    context: Any, code: grpc.StatusCode, details: str, more: tuple[Pair, ...] = ()
) -> NoReturn:
    """End a call for which no handler has run, with the trailer that says so."""
    set_outside = context.trailing_metadata() or ()
    try:
        await context.abort(code, details, (*set_outside, FROM_PEER, NOT_STARTED, *more))
    except CallerGone:
        # grpc logs an error if this arrives before the news that the caller has gone.
        await let_events_arrive()
        raise
    raise AssertionError("abort returned")


def _tell_of_full(serving: Serving) -> None:
    serving.refused += 1
    now = time.monotonic()
    if now - serving.told >= _LOG_EVERY:
        log.warning(
            "max_concurrent_calls: %d calls are in progress; refused since last said: %d",
            len(serving.calls),
            serving.refused,
        )
        serving.told, serving.refused = now, 0
