"""How a real call on a node ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, Outcome
from pymicro.nodes.node import Node
from pymicro.rpc.grpcio import cancelled_here, now
from pymicro.rpc.wire.gomicro import ErrorJson, read_status

__all__ = ["log_end", "logs_calls", "outcome_of", "trailers_of"]

log = logging.getLogger("pymicro.client")

_OK = grpc.StatusCode.OK
_CANCELLED = grpc.StatusCode.CANCELLED
_UNKNOWN = grpc.StatusCode.UNKNOWN
_OUTCOMES: dict[grpc.StatusCode, Outcome] = {code: OUTCOMES[code.value[0]] for code in grpc.StatusCode}
# Errors of go-micro services often have a number of their own (422, 10001), and only the status
# UNKNOWN fits those. They are answers about a request, as FAILED_PRECONDITION is, and five of them
# in a row must not eject a node.
_REFUSED = _OUTCOMES[grpc.StatusCode.FAILED_PRECONDITION]


def outcome_of(call: Any) -> Outcome:
    """How a done grpc.aio call ended."""
    try:  # `now`, written out here because every call passes through
        call.code().send(None)
    except StopIteration as stop:
        code = stop.value
    else:
        raise RuntimeError(f"{call!r} is not done")
    if code is _OK:
        return OUTCOMES[0]
    if code is _CANCELLED and cancelled_here(call):
        return CANCELLED
    meant, error = _meant(call, code)
    if meant is _UNKNOWN and error is not None and error.code // 100 != 5:
        return _REFUSED
    return _OUTCOMES[meant]


def _meant(call: Any, code: grpc.StatusCode) -> tuple[grpc.StatusCode, ErrorJson | None]:
    meant, _, error = read_status(code, now(call.details()) or "")
    return meant, error


def trailers_of(call: Any) -> dict[str, str | bytes]:
    """The trailing metadata of a done grpc.aio call; if a key comes twice, its last value."""
    # Read as pairs: the keys() of a grpc.aio Metadata are no keys before grpcio 1.80.
    return dict(tuple(now(call.trailing_metadata()) or ()))


def logs_calls() -> bool:
    """Whether calls are logged; each channel asks once, not for each call."""
    return log.isEnabledFor(logging.DEBUG)


def log_end(callee: str, node: Node) -> Callable[[Any], None]:
    """A done callback that writes a line about the call."""

    def write(call: Any) -> None:
        code, _ = _meant(call, now(call.code()))
        ended = "cancelled here" if outcome_of(call).local else f"status {code.value[0]}"
        log.debug("%s on %s: %s", callee, node.address, ended)

    return write
