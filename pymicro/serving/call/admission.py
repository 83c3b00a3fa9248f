"""Calls that are refused before their handler runs, and the proof of that for callers.

The trailer `pymicro-not-started` lets a caller retry on another node, whatever the
method does. So only this module writes it, in front of the handlers, where no
exception of a handler can reach.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from pymicro.base.loggers import logger
from pymicro.identity.caller import KnownCaller
from pymicro.rpc.grpcio import CallerGone, let_events_arrive
from pymicro.rpc.scope import scope
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, Pair
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.call.authentication import Unsettled, Who
from pymicro.serving.call.context import CallContext
from pymicro.serving.call.noting import note_refused

if TYPE_CHECKING:
    from pymicro.serving.call.context import Serving
    from pymicro.serving.call.rpc_codec import RpcCodec

__all__ = ["abort_unstarted", "begin", "begin_known", "begin_late", "begin_proved", "refuse_denied"]

log = logger("pymicro.server")

# Seconds between two log lines about a full server: it refuses thousands of calls a second.
_LOG_EVERY = 10.0


def begin(context: Any, codec: RpcCodec, serving: Serving) -> CallContext | None:
    """Accept a call; None if `begin_late` must see to it. A plain function, since every call passes here.

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
        call.span = serving.tracing.begin_served(codec.path, call.invocation_metadata())
    scope.set(call)  # never reset: the call has its own task, and so its own ContextVar
    return call


def begin_known(context: Any, codec: RpcCodec, serving: Serving) -> CallContext | None:
    """`begin`, where callers can prove who they are: it looks at the rules, and the span names the caller."""
    guard = serving.guard
    if guard is not None and guard.denial(codec.path, context) is not None:
        return None
    call = begin(context, codec, serving)
    if call is not None and call.span is not None and call.caller is not None:
        call.span.name_caller(call.caller.title)
    return call


def begin_proved(context: Any, codec: RpcCodec, serving: Serving) -> CallContext | None:
    """`begin`, where calls carry who makes them: None also for one whose token has to be checked first."""
    guard = serving.guard
    assert guard is not None
    if guard.is_open(codec.path):
        return begin(context, codec, serving)
    who = guard.who(codec.path, context)
    if isinstance(who, Unsettled) or guard.denial_of(codec.path, who) is not None:
        return None
    return _begin_as(who, context, codec, serving)


def _begin_as(who: Who, context: Any, codec: RpcCodec, serving: Serving) -> CallContext | None:
    call = begin(context, codec, serving)
    if call is not None:
        caller = who if isinstance(who, KnownCaller) else None
        call.know(caller)
        if call.span is not None and caller is not None:
            call.span.name_caller(caller.title)
    return call


async def begin_late(context: Any, codec: RpcCodec, serving: Serving) -> CallContext:
    """Accept a call once its token is checked.

    Or end one that does not begin: it is not allowed, its deadline has passed, or there are too many.

    Raises:
        AbortError: As `context.abort` does.
    """
    more = (IDEMPOTENT,) if codec.handler.idempotent else ()
    who = await refuse_denied(codec.path, context, serving, more)
    guard = serving.guard
    if guard is not None and guard.authentication is not None and not guard.is_open(codec.path):
        call = _begin_as(who, context, codec, serving)
        if call is not None:
            return call
    expired = context.time_remaining() == 0
    code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "expired" if expired else "full"
    note_refused(serving, codec.path, reason, code.value[0], context, known=True, who=who)
    if expired:
        log.debug("%s: not started, its deadline has passed", codec.path)
        text = "the deadline had passed before the call was started"
    else:
        _tell_of_full(serving)
        text = f"this server works on {serving.limit} calls already: its max_concurrent_calls"
    return await abort_unstarted(context, code, text, more)


async def refuse_denied(path: str, context: Any, serving: Serving, more: tuple[Pair, ...] = ()) -> Who:
    """End a call whose caller may not make it; return who makes it if he may.

    Without the trailer that it was not started, unless nothing was found out: another node would say
    the same.

    Raises:
        AbortError: As `context.abort` does.
    """
    guard = serving.guard
    if guard is None:
        return None
    who = await guard.settled(guard.who(path, context))
    denial = guard.denial_of(path, who)
    if denial is None:
        return who
    guard.tell(path, who)
    note_refused(serving, path, denial.reason, denial.code.value[0], context, known=True, who=who)
    pairs = (NOT_STARTED, *more) if denial.elsewhere else more
    await _abort(context, denial.code, denial.text, (FROM_PEER, *pairs))
    return who


async def abort_unstarted(
    context: Any, code: grpc.StatusCode, details: str, more: tuple[Pair, ...] = ()
) -> NoReturn:
    """End a call for which no handler has run, with the trailer that says so."""
    await _abort(context, code, details, (FROM_PEER, NOT_STARTED, *more))


async def _abort(context: Any, code: grpc.StatusCode, details: str, pairs: tuple[Pair, ...]) -> NoReturn:
    set_outside = context.trailing_metadata() or ()
    try:
        await context.abort(code, details, (*set_outside, *pairs))
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
