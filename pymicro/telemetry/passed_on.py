"""A span that nobody keeps: it is there for its ids, if somebody asks for them.

Apart from `tracing`, since it needs OpenTelemetry's API when it is imported.
"""

from __future__ import annotations

from typing import Any

from opentelemetry import trace

__all__ = ["PassedOn", "new_parent"]


class PassedOn(trace.NonRecordingSpan):
    """A caller's span that is not sampled, or the root of a trace of which nothing is.

    Its ids are read, or made, only when somebody asks for them: a line of the log, an onward call, or a
    span of the program's own.

    Args:
        parent: The caller's `traceparent`, which is well-formed; empty for a root.
        ids: Makes those of a root, as the SDK's `id_generator` does.
        trace_id: Of the root's trace; 0 for a new one.
    """

    def __init__(self, parent: str, ids: Any = None, trace_id: int = 0) -> None:
        self._parent = parent
        self._ids = ids
        self._trace_id = trace_id

    @property
    def parent(self) -> str:
        """Its `traceparent`."""
        if not self._parent:
            self._parent = new_parent(self._ids, self._trace_id)
        return self._parent

    def get_span_context(self) -> trace.SpanContext:
        """Its ids."""
        parent = self.parent
        trace_id, span_id, flags = (int(part, 16) for part in (parent[3:35], parent[36:52], parent[53:]))
        return trace.SpanContext(trace_id, span_id, self._ids is None, trace.TraceFlags(flags))


def new_parent(ids: Any, trace_id: int = 0) -> str:
    """A `traceparent` with new ids, which says that nothing is sampled.

    Args:
        ids: Makes them.
        trace_id: That of the trace, if it has one already.
    """
    return f"00-{trace_id or ids.generate_trace_id():032x}-{ids.generate_span_id():016x}-00"
