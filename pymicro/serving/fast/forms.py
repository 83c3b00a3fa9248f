"""What a call over transport `fast` says and reads beside its messages: content-type, metadata, status."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from pymicro.rpc.fast.reserved import NOT_METADATA
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, Pair, checked
from pymicro.rpc.wire.status import FROM_PEER
from pymicro_fast.wire import pairs_of, text_of

__all__ = ["Details", "is_grpc", "names_in", "sound", "status_of"]

# Pairs of our own, which need no check.
_KNOWN = frozenset({IDEMPOTENT, NOT_STARTED, FROM_PEER})


class Details:
    """See `CallDetails`."""

    __slots__ = ("invocation_metadata", "method")

    def __init__(self, method: str, invocation_metadata: tuple[Pair, ...]) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata

    def __repr__(self) -> str:
        return f"Details(method={self.method!r}, invocation_metadata={self.invocation_metadata!r})"


def is_grpc(kind: bytes | None) -> bool:
    """Whether a content-type is gRPC's: with any form of message, and any parameters."""
    name = (kind or b"").lower()
    return name.startswith(b"application/grpc") and name[16:17] in (b"", b"+", b";")


def names_in(text: bytes | None) -> list[bytes]:
    """The names of a list as `grpc-accept-encoding` has it."""
    return [name.strip() for name in (text or b"").split(b",")]


def sound(metadata: Iterable[Pair]) -> tuple[Pair, ...]:
    """Metadata that can be sent, without what is not metadata.

    Raises:
        ValueError, TypeError: It cannot be sent.
    """
    pairs = tuple(metadata)
    if _KNOWN.issuperset(pairs):
        return pairs
    return tuple([pair for pair in checked(pairs) if pair[0] not in NOT_METADATA])


def status_of(
    code: grpc.StatusCode | None, details: str = "", trailing: tuple[Pair, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """The trailers of a status."""
    number = (code or grpc.StatusCode.UNKNOWN).value[0]
    trailers = [(b"grpc-status", b"%d" % number)]
    if details:
        trailers.append((b"grpc-message", text_of(details)))
    if trailing:
        trailers += pairs_of(trailing)
    return trailers
