"""Whether a call came from go-micro 1.x, and what its metadata asks of the answer.

Facts from go-micro v1.18.0: `client/grpc/grpc.go` (what a client sends),
`server/grpc/grpc.go` (what its server makes of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pymicro.rpc.wire.gomicro import CODEC, FROM_SERVICE, TIMEOUT

if TYPE_CHECKING:
    from pymicro.rpc.wire.metadata import Pair

__all__ = ["ORDINARY", "Caller", "caller_of"]

# The user agent of pymicro's own clients (`grpc.primary_user_agent`). They send their service's
# name as go-micro's do, but want plain errors with rich details.
_OURS = "pymicro/"

# Go's durations are int64: nobody can have meant a longer time.
_LONGEST = (1 << 63) - 1


class Caller(NamedTuple):
    """What a caller says about itself.

    Attributes:
        go_micro: Whether it gets errors as go-micro's JSON.
        content_type: Its `x-content-type`; empty if there is none.
        timeout: Seconds it gives the call, from its `timeout` in nanoseconds; None if
            there is none. Do not rely on it if either side streams: go-micro's
            clients send 5 s with every stream and do not mean it.
    """

    go_micro: bool = False
    content_type: str = ""
    timeout: float | None = None


ORDINARY = Caller()


def caller_of(metadata: Iterable[Pair]) -> Caller:
    """The caller, by the request's metadata."""
    marked = ours = False
    content_type, timeout = "", None
    for key, value in metadata:
        if key == CODEC and isinstance(value, str):
            marked, content_type = True, value
        elif key == FROM_SERVICE:
            marked = True
        elif key == "user-agent":
            ours = isinstance(value, str) and value.startswith(_OURS)
        elif key == TIMEOUT:
            timeout = _seconds(value)
    if not marked or (ours and not content_type):
        return ORDINARY  # other clients may use the key `timeout` for anything
    return Caller(False, content_type) if ours else Caller(True, content_type, timeout)


def _seconds(value: str | bytes) -> float | None:
    """Seconds from nanoseconds as go-micro writes them; None for anything else."""
    if not (isinstance(value, str) and len(value) <= 19 and value.isascii() and value.isdigit()):
        return None
    nanoseconds = int(value)
    return nanoseconds / 1e9 if nanoseconds <= _LONGEST else None
