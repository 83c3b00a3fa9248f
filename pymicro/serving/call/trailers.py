"""The trailing metadata a handler may send: none of pymicro's own, none of a server behind it.

A handler may pass on metadata that it received. The `pymicro-not-started` of a server
behind it must not go along: the caller would then repeat a call that has run here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.metadata import PUSHBACK, Pair, checked
from pymicro.rpc.wire.status import RESERVED

__all__ = ["sendable", "without_received"]


def sendable(metadata: Iterable[tuple[str, str | bytes]], handled: BaseException | None) -> tuple[Pair, ...]:
    """Those of the pairs that a handler may send.

    Args:
        handled: The exception that the handler is handling, if any.

    Raises:
        ValueError: The metadata cannot be sent.
    """
    pairs = checked(metadata)
    return without_received(tuple(pair for pair in pairs if not pair[0].startswith(RESERVED)), handled)


def without_received(pairs: tuple[Pair, ...], exc: BaseException | None) -> tuple[Pair, ...]:
    """The pairs without the pushback of any error behind `exc`.

    A handler may set a pushback of its own (`grpc-retry-pushback-ms`, gRFC A6). Only
    one that an onward call's server meant for that call is left out.
    """
    if not any(key == PUSHBACK for key, _ in pairs):
        return pairs
    received = set(_received(exc))
    return tuple(pair for pair in pairs if pair not in received)


def _received(exc: BaseException | None) -> Iterable[Pair]:
    """Pushbacks of received errors in a chain of exceptions."""
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        if isinstance(one, grpc.aio.AioRpcError) and not (isinstance(one, RpcError) and one.callee is None):
            yield from _pushbacks(one.trailing_metadata())


def _pushbacks(metadata: Any) -> Iterable[Pair]:
    return [(key, value) for key, value in metadata or () if key == PUSHBACK]
