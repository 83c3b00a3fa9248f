"""From exceptions to statuses: a handler's exception, as the caller may see it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AbortError, BaseError, UsageError

from pymicro.rpc.grpcio import CallerGone, let_events_arrive
from pymicro.rpc.status import DeadlineExceeded, Internal, RpcError, Unimplemented, by_code
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED
from pymicro.rpc.wire.status import code_of, to_wire
from pymicro.serving.call.rpc_codec import BadResponse
from pymicro.serving.call.trailers import without_received

if TYPE_CHECKING:
    from pymicro.rpc.wire.metadata import Pair
    from pymicro.serving.call.context import CallContext
    from pymicro.serving.call.rpc_codec import RpcCodec

__all__ = ["NotOverridden", "refuse"]

log = logging.getLogger("pymicro.server")

# An onward call inherits our deadline; its timer may fire a moment before ours.
_SLACK = 0.01


class NotOverridden(Unimplemented):
    """A generated servicer's own method was called: no handler exists that could have run."""


async def refuse(call: CallContext, context: Any, codec: RpcCodec, exc: BaseException) -> Any:
    """End a call whose handler raised `exc`.

    Args:
        context: grpc's context, as the outermost foreign interceptor passes it in, so
            that this interceptor sees the status too.

    Returns:
        Nothing useful; grpc goes on to send a status that was set before.

    Raises:
        AbortError: The status was sent; grpc needs to see this exception.
        BaseException: `exc` itself if it is not ours to handle: a cancelled
            call, a generator being closed.
    """
    raised, exc = exc, _sole(exc)
    if isinstance(exc, AbortError):
        raise exc
    if isinstance(exc, KeyboardInterrupt):
        call.interrupt()
    if isinstance(exc, GeneratorExit) and asyncio.current_task() is not call.task:
        raise exc  # a coroutine that is closed; left to grpc, one that the handler raised is no answer
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            call.mark_cancelled()
            raise exc
        # Nobody cancelled this call: the handler awaited something that was cancelled. If we left
        # that to grpc, the caller would wait until its deadline.
    if isinstance(exc, BaseError) and not isinstance(exc, UsageError | CallerGone):
        raise exc  # the server has stopped, so nothing can be sent any more
    if context.done():
        # `abort` has sent the status, and then the handler raised another exception.
        log.error("%s: raised after the status was sent", codec.path, exc_info=exc)
        return None
    if isinstance(exc, BadResponse) and _code_set(context) is not None:
        return b"" if codec.raw else None  # with an error code, grpc ignores the response
    error, lines = _explain(call, context, codec, exc)
    try:
        wire = to_wire(error, call.trailing_metadata())
    except Exception as broken:
        # A status that cannot be sent, by its own details, is a fault of the handler like any other.
        error, lines = _explain(call, context, codec, broken)
        wire = to_wire(error, call.trailing_metadata())
    trailing = without_received(wire.trailing, raised)
    try:
        await context.abort(wire.code, wire.details, (*trailing, *_own_trailers(codec, exc)))
    except AbortError:
        # Only now: if the caller has gone, `abort` raises another exception, and nobody
        # needs a log line about the failed write that told us so.
        lines()
        if wire.dropped:
            log.warning("%s: too large or illegal, so not sent: %s", codec.path, ", ".join(wire.dropped))
        raise
    except CallerGone:
        # The same deadline may have ended both. grpc is about to hear of that, and logs an error
        # if this exception arrives first.
        await let_events_arrive()
        raise
    return None


def _sole(exc: BaseException) -> BaseException:
    """The exception that a group stands for, as a TaskGroup makes it; the group where they differ.

    Of several statuses that say the same, the first is sent: the caller cannot tell them apart.
    """
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    first, *others = (_sole(one) for one in exc.exceptions)
    return first if all(_same_status(first, other) for other in others) else exc


def _same_status(one: BaseException, other: BaseException) -> bool:
    if not (isinstance(one, RpcError) and isinstance(other, RpcError)):
        return False
    return one.callee is None and other.callee is None and _said(one) == _said(other)


def _said(error: RpcError) -> tuple[Any, ...]:
    return (
        error.status_code,
        error.details(),
        error.error_details,
        tuple(error.trailing_metadata() or ()),
    )


def _own_trailers(codec: RpcCodec, exc: BaseException) -> tuple[Pair, ...]:
    idempotent = (IDEMPOTENT,) if codec.handler.idempotent else ()
    return (*idempotent, NOT_STARTED) if isinstance(exc, NotOverridden) else idempotent


def _explain(call: CallContext, context: Any, codec: RpcCodec, exc: BaseException) -> tuple[RpcError, Any]:
    """The status for an exception, and the function that writes about it to the log."""
    if isinstance(exc, RpcError) and exc.callee is None:
        return exc, _quiet
    received = isinstance(exc, grpc.RpcError)
    if _is_deadline(exc) and _deadline_passed(call):
        return DeadlineExceeded("deadline exceeded"), _quiet
    ident = secrets.token_hex(4)
    code = _code_set(context)
    error: RpcError = Internal(f"internal error, id {ident}")
    if code is not None and not received:
        error = by_code(code)(context.details() or f"error, id {ident}")

    where = f"{codec.handler.label}, {codec.handler.where}"
    if received:

        def lines() -> None:
            log.error(
                "%s: internal error, id %s: %s did not catch %s",
                codec.path,
                ident,
                where,
                _account_of_received(exc),
            )
    elif isinstance(exc, BadResponse):

        def lines() -> None:
            log.error("%s: internal error, id %s: %s", codec.path, ident, exc)
    else:

        def lines() -> None:
            log.error("%s: internal error, id %s in %s", codec.path, ident, where, exc_info=exc)

    return error, lines


def _account_of_received(exc: Any) -> str:
    if isinstance(exc, RpcError):
        return f"what it received: {exc}"
    code = exc.code() if hasattr(exc, "code") else None
    details = exc.details() if hasattr(exc, "details") else ""
    return f"what an onward call received: {getattr(code, 'name', code)}: {details}"


def _quiet() -> None:
    """Log nothing: the handler meant to send this status."""


def _is_deadline(exc: BaseException) -> bool:
    if isinstance(exc, TimeoutError):
        return True
    code = getattr(exc, "code", None)
    return isinstance(exc, grpc.RpcError) and callable(code) and code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _deadline_passed(call: CallContext) -> bool:
    remaining = call.time_remaining()
    return remaining is not None and remaining <= _SLACK


def _code_set(context: Any) -> grpc.StatusCode | None:
    """The error code that a handler set, as an enum or as a number."""
    code = code_of(context.code())
    return None if code is grpc.StatusCode.OK else code
