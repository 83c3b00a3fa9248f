"""From exceptions to statuses: a handler's exception, as the caller may see it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import grpc
from grpc.aio import AbortError, BaseError, UsageError

from pymicro.base.loggers import logger
from pymicro.base.printable import shortened
from pymicro.rpc.grpcio import CallerGone, let_events_arrive
from pymicro.rpc.status import DeadlineExceeded, Internal, RpcError, Unimplemented, by_code
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED
from pymicro.rpc.wire.status import code_of, to_wire
from pymicro.serving.call.rpc_codec import BadResponse
from pymicro.serving.call.told import is_of_this_machine, with_traceback
from pymicro.serving.call.trailers import without_received
from pymicro.serving.gomicro.translation import Translation
from pymicro.telemetry.tracing import add_internal_error

if TYPE_CHECKING:
    from pymicro.rpc.wire.metadata import Pair
    from pymicro.serving.call.context import CallContext, Serving
    from pymicro.serving.call.rpc_codec import RpcCodec

__all__ = ["NotOverridden", "ended_with", "error_code", "refuse", "refuse_outside"]

log = logger("pymicro.server")

# An onward call inherits our deadline; its timer may fire a moment before ours.
_SLACK = 0.01


class NotOverridden(Unimplemented):
    """A generated servicer's own method was called: no handler exists that could have run."""


async def refuse(
    call: CallContext, context: Any, codec: RpcCodec, serving: Serving, exc: BaseException
) -> Any:
    """End a call whose handler raised `exc`.

    Args:
        context: The transport's call, or the context that the innermost foreign interceptor
            passes in, so that these interceptors see the status too.

    Returns:
        Nothing useful; the transport goes on to send a status that was set before.

    Raises:
        AbortError: The status was sent; the transport needs to see this exception.
        BaseException: `exc` itself if it is not ours to handle: a cancelled
            call, a generator being closed.
    """
    raised, exc = exc, _sole(exc)
    if isinstance(exc, GeneratorExit) and asyncio.current_task() is not call.task:
        raise exc  # a coroutine that is closed; left to grpc, one that the handler raised is no answer
    if isinstance(exc, asyncio.CancelledError) and _is_cancelled():
        call.mark_cancelled()
        if not codec.raw or type(context) is Translation:
            raise exc  # an interceptor further out may have cancelled the task, by a timeout of its own
    if _is_final(exc, serving):
        raise exc
    if context.done():
        # `abort` has sent the status, and then the handler raised another exception.
        log.error("%s: raised after the status was sent", codec.path, exc_info=exc)
        return None
    if isinstance(exc, BadResponse) and error_code(context) is not None:
        return b"" if codec.raw else None  # with an error code, grpc ignores the response
    source = _Source(codec.path, f"{codec.handler.label}, {codec.handler.where}")
    own = (IDEMPOTENT,) if codec.handler.idempotent else ()
    if isinstance(exc, NotOverridden):
        own = (*own, NOT_STARTED)
    return await _send(context, source, exc, raised, own, debug=serving.debug_errors)


async def refuse_outside(path: str, where: str, context: Any, serving: Serving, exc: BaseException) -> Any:
    """End a call that ends with `exc` outside of dispatch: by a foreign interceptor, or a cancellation.

    Args:
        where: Where the exception comes from, for people.
        context: As the outermost of these interceptors gets it.

    Returns:
        Nothing useful, as `refuse`.

    Raises:
        AbortError: The status was sent.
        BaseException: `exc` itself, if nobody waits for an answer.
    """
    raised, exc = exc, _sole(exc)
    if _is_final(exc, serving):
        raise exc
    if isinstance(exc, CallerGone):
        await let_events_arrive()  # its cancellation is on its way
        raise exc
    if context.done():
        log.error("%s: raised after the status was sent", path, exc_info=exc)
        return None
    own = (IDEMPOTENT,) if IDEMPOTENT in tuple(context.trailing_metadata() or ()) else ()
    return await _send(context, _Source(path, where), exc, raised, own, debug=serving.debug_errors)


def _is_final(exc: BaseException, serving: Serving) -> bool:
    """Whether nothing is left to send, or nobody is there to read it."""
    if isinstance(exc, KeyboardInterrupt):
        serving.interrupt()
    if isinstance(exc, asyncio.CancelledError):
        # Either its caller has gone. Or the handler awaited something that was cancelled, or its own
        # task was cancelled in this process; left to grpc, the caller would wait to its deadline.
        task = asyncio.current_task()
        return task is None or (bool(task.cancelling()) and serving.has_cancelled(task))
    # Other errors of grpc.aio's say that the server has stopped.
    return isinstance(exc, BaseError) and not isinstance(exc, UsageError | CallerGone)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Source(NamedTuple):
    """Where an exception comes from.

    Attributes:
        where: For people.
    """

    path: str
    where: str


async def _send(
    context: Any,
    source: _Source,
    exc: BaseException,
    raised: BaseException,
    own: tuple[Pair, ...],
    *,
    debug: bool,
) -> NoReturn:
    """Send the status for `exc`, with the trailing metadata set so far and `own`.

    Args:
        raised: The exception as it was raised, perhaps in a group.
        debug: Whether a caller on this machine is told what an internal error is.
    """
    error, lines = _explain(context, source, exc, debug=debug)
    before = tuple(context.trailing_metadata() or ())
    try:
        wire = to_wire(error, before)
    except Exception as broken:
        # A status that cannot be sent, by its own details, is a fault of the handler like any other.
        error, lines = _explain(context, source, broken, debug=debug)
        wire = to_wire(error, before)
    trailing = without_received(wire.trailing, raised)
    try:
        await context.abort(wire.code, wire.details, (*trailing, *own))
    except AbortError:
        # Only now: if the caller has gone, `abort` raises another exception, and nobody
        # needs a log line about the failed write that told us so.
        lines()
        if wire.dropped:
            log.warning("%s: too large or illegal, so not sent: %s", source.path, ", ".join(wire.dropped))
        raise
    except CallerGone:
        # The same deadline may have ended both. grpc is about to hear of that, and logs an error
        # if this exception arrives first.
        await let_events_arrive()
        raise
    raise AssertionError("abort returned")


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


def _explain(
    context: Any, source: _Source, exc: BaseException, *, debug: bool
) -> tuple[RpcError, Callable[[], None]]:
    """The status for an exception, and the function that writes about it to the log."""
    if isinstance(exc, RpcError) and exc.callee is None:
        return exc, _quiet
    received = isinstance(exc, grpc.RpcError)
    if _is_deadline(exc) and _deadline_passed(context):
        return DeadlineExceeded("deadline exceeded"), _quiet
    ident = secrets.token_hex(4)
    add_internal_error(exc, ident)
    code = error_code(context)
    error: RpcError = Internal(f"internal error, id {ident}")
    if debug and is_of_this_machine(context.peer()):
        error = with_traceback(ident, exc)
    if code is not None and not received:
        error = by_code(code)(context.details() or f"error, id {ident}")

    if received:

        def lines() -> None:
            log.error(
                "%s: internal error, id %s: %s did not catch %s",
                source.path,
                ident,
                source.where,
                _account_of_received(exc),
            )
    elif isinstance(exc, BadResponse):

        def lines() -> None:
            log.error("%s: internal error, id %s: %s", source.path, ident, exc)
    else:

        def lines() -> None:
            log.error("%s: internal error, id %s in %s", source.path, ident, source.where, exc_info=exc)

    return error, lines


def _account_of_received(exc: Any) -> str:
    if isinstance(exc, RpcError):
        return f"what it received: {shortened(str(exc), 1000)}"
    code = exc.code() if hasattr(exc, "code") else None
    details = exc.details() if hasattr(exc, "details") else ""
    return f"what an onward call received: {getattr(code, 'name', code)}: {shortened(str(details), 1000)}"


def _quiet() -> None:
    """Log nothing: the handler meant to send this status."""


def _is_deadline(exc: BaseException) -> bool:
    if isinstance(exc, TimeoutError):
        return True
    code = getattr(exc, "code", None)
    return isinstance(exc, grpc.RpcError) and callable(code) and code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _deadline_passed(context: Any) -> bool:
    remaining = context.time_remaining()
    return remaining is not None and remaining <= _SLACK


def error_code(context: Any) -> grpc.StatusCode | None:
    """The error code that a handler set, as an enum or as a number."""
    code = code_of(context.code())
    return None if code is grpc.StatusCode.OK else code


def ended_with(call: CallContext, context: Any, failed: bool) -> int:
    """The number of the status that a call ended with, for the record.

    Args:
        failed: Whether its handler raised something, and did not return.
    """
    if call.cancelled():
        code = None
    else:
        code = error_code(context)
        if code is None and not failed:
            return 0
    if code is None:  # nobody waits for an answer any more
        passed = _deadline_passed(call)
        code = grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED
    number: int = code.value[0]
    return number
