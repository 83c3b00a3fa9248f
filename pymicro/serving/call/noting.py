"""What is noted of a call that has ended: counted, traced, listed in the access log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pymicro.identity.caller import KnownCaller, caller_of

if TYPE_CHECKING:
    from pymicro.base.recorder import ServerMethodRecord
    from pymicro.serving.call.access_log import AccessLog
    from pymicro.serving.call.context import CallContext, Serving

__all__ = ["note_end", "note_refused"]


def note_end(
    call: CallContext,
    code: int,
    seconds: float,
    record: ServerMethodRecord | None,
    access: AccessLog | None,
    received: int | None = None,
    sent: int | None = None,
) -> None:
    """Note the end of a call that has a span, or where there is an access log; it is counted already.

    Args:
        code: The number of its status.
        seconds: How long it took.
        record: Where it was counted.
        access: Where it may get a line.
        received: Bytes of its one request; None for a stream.
        sent: Bytes of its one response; None if there was none, or for a stream.
    """
    span = call.span
    if span is not None:
        if record is not None and span.sampled:
            record.ended[code].exemplify(seconds, span.trace_id, span.span_id)
        span.end(code)
    if access is not None and access.wants(seconds):
        trace = span.trace_id if span is not None else ""
        title = _title(lambda: call.caller) if access.names_callers else ""
        access.put(call.method, code, seconds, call, trace, received, sent, title)


def note_refused(
    serving: Serving, path: str, reason: str, code: int, context: Any, *, known: bool, who: object = None
) -> None:
    """Note a call that ends before a handler sees it.

    Args:
        reason: `full`, `expired`, `unknown`, `denied` or `unauthenticated`.
        code: The number of its status.
        context: As in `refusal.refuse`.
        known: Whether the path is one of ours, and not only a caller's word.
        who: Who makes it, if somebody has looked.
    """
    if serving.record is not None:
        serving.record.refuse(path, reason, code)
    trace = ""
    if serving.tracing is not None:
        trace = serving.tracing.add_refused(path, context.invocation_metadata() or (), code, known=known)
    access = serving.access
    if access is not None and access.wants(0.0):
        title = ""
        if access.names_callers:
            title = _title(lambda: who if isinstance(who, KnownCaller) else caller_of(context.auth_context()))
        access.put(path, code, 0.0, context, trace, caller=title)


def _title(find: Callable[[], KnownCaller | None]) -> str:
    try:
        found = find()
    except Exception:  # of a context that a foreign interceptor has put in the place of the call's
        return ""
    return found.title if found is not None else ""
