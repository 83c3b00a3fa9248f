"""What a handler knows of the call it serves, and what its onward calls inherit.

The server fills the context in; the client reads its deadline and metadata for
onward calls. Neither knows the other, both know this module.
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
        active: False once the handler has returned: then nothing is inherited.
    """

    active: bool

    @property
    def retried(self) -> bool:
        """Whether this call is not the first attempt: its onward calls are not tried again then.

        Else each layer would multiply what the one above it tries.
        """
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below 0; None without one."""
        ...

    def forwarded(self, names: frozenset[str]) -> Sequence[tuple[str, str | bytes]]:
        """The caller's metadata whose (lower-case) keys are in `names`."""
        ...


# Set by the server around each handler; None outside and inside `detached()`.
scope: ContextVar[CallScope | None] = ContextVar("pymicro_call_scope", default=None)


def current_scope() -> CallScope | None:
    """The call being served here, while its handler runs."""
    found = scope.get()
    return found if found is not None and found.active else None


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Calls in this block are nobody's onward calls: no inherited deadline, no metadata.

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
    """`pymicro.current()` was asked outside a handler."""
