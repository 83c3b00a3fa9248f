"""What a handler knows about the call it serves, and what its onward calls inherit.

The server sets the context; the client reads its deadline and metadata for onward
calls. Neither knows the other; both know this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

from pymicro.base.errors import PymicroError

__all__ = ["CallScope", "NoCall", "current_scope", "detached", "scope"]


class CallScope(Protocol):
    """The part of a served call that its onward calls inherit.

    Attributes:
        active: False once the handler has returned: then calls inherit nothing.
    """

    active: bool

    @property
    def retried(self) -> bool:
        """Whether this call is not the first attempt: then its onward calls are not retried.

        Otherwise each layer would multiply the attempts of the one above it.
        """
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below 0; None without one."""
        ...

    def forwarded(self, names: frozenset[str]) -> Sequence[tuple[str, str | bytes]]:
        """The caller's metadata whose (lower-case) keys are in `names`."""
        ...


# The server sets it around each handler; None outside and inside `detached()`.
scope: ContextVar[CallScope | None] = ContextVar("pymicro_call_scope", default=None)


def current_scope() -> CallScope | None:
    """The call being served here, while its handler runs."""
    found = scope.get()
    return found if found is not None and found.active else None


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Calls in this block are no onward calls: they inherit no deadline and no metadata.

    For work that outlives the handler that starts it:

        with pymicro.detached():
            task = asyncio.create_task(send_receipt(order))
    """
    token = scope.set(None)
    try:
        yield
    finally:
        scope.reset(token)


class NoCall(PymicroError):
    """`pymicro.current()` was called outside a handler."""
