"""One real call on one node: counts it, and tells how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.balancer.base import CANCELLED, OUTCOMES, Outcome, Pick
from pymicro.client.node_channel import NodeChannel
from pymicro.node import Node

if TYPE_CHECKING:
    from pymicro.client.plan import Plan

__all__ = ["Attempt", "log_end", "logs_calls", "outcome_of", "trailers_of"]

log = logging.getLogger("pymicro.client")

_OK = grpc.StatusCode.OK
_CANCELLED = grpc.StatusCode.CANCELLED
_OUTCOMES: dict[grpc.StatusCode, Outcome] = {code: OUTCOMES[code.value[0]] for code in grpc.StatusCode}


def _now(value: Any) -> Any:
    """The result of a coroutine that is known not to suspend.

    In a done callback a call's `code()` and its like return at once, for every
    outcome; a Task only to ask for it would cost more than the rest of the callback.
    """
    try:
        value.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError(f"{value!r} suspended although its call is done")


def outcome_of(call: Any) -> Outcome:
    """How a done grpc.aio call ended."""
    code = _now(call.code())
    if code is _OK:
        return OUTCOMES[0]
    # grpc.aio leaves the debug string out of exactly those statuses that it made up
    # itself because our side cancelled; grpc-core always writes one.
    if code is _CANCELLED and _now(call.debug_error_string()) is None:
        return CANCELLED
    return _OUTCOMES[code]


def trailers_of(call: Any) -> dict[str, str | bytes]:
    """The trailing metadata of a done grpc.aio call; of two with one key the last."""
    return dict(_now(call.trailing_metadata()) or ())


class Attempt:
    """Follows one real call to its end, which it reports exactly once.

    It is the call's done callback, and holds nothing of our own call object, so
    that a stream dropped by its reader can be collected.

    Attributes:
        ready: Whether the node's connection was READY when the call was started.
        readies: How often it had been so by then.
    """

    __slots__ = ("call", "channel", "pick", "plan", "readies", "ready")

    def __init__(self, call: Any, pick: Pick, channel: NodeChannel, ready: bool, plan: Plan) -> None:
        self.call = call
        self.pick = pick
        self.channel = channel
        self.ready = ready
        self.readies = channel.readies
        self.plan = plan
        channel.calls.add(self)
        plan.live.add(self)
        call.add_done_callback(self)

    def __call__(self, call: Any) -> None:
        plan = self.plan
        plan.live.discard(self)
        self.channel.ended(self)
        outcome = outcome_of(call)
        if outcome.code:
            plan.failed(self, outcome)
        else:
            plan.succeeded(self, outcome)

    def may_have_run(self) -> bool:
        """Whether the request can have been sent, for all that the connection's states tell.

        It cannot if the connection was not READY when the call was started and has
        not been since.
        """
        channel = self.channel
        return self.ready or channel.readies != self.readies or channel.ready()

    def cancel(self) -> bool:
        """Cancel the real call; False if it had ended."""
        return bool(self.call.cancel())


def logs_calls() -> bool:
    """Whether calls are logged: asked once for each channel, not for each call."""
    return log.isEnabledFor(logging.DEBUG)


def log_end(callee: str, node: Node) -> Callable[[Any], None]:
    """A done callback that writes a line about the call."""

    def write(call: Any) -> None:
        outcome = outcome_of(call)
        ended = "cancelled here" if outcome.local else f"status {outcome.code}"
        log.debug("%s on %s: %s", callee, node.address, ended)

    return write
