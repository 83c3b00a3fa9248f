"""What it takes to start a call on a node, and to start it again on another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.balancer.base import CANCELLED, OUTCOMES, CallInfo, Outcome, Pick
from pymicro.client.attempt import Attempt, log_end, trailers_of
from pymicro.client.node_channel import Cancellable, NodeChannel
from pymicro.client.replay import Replay
from pymicro.context import scope
from pymicro.policy.retry import Failure
from pymicro.wire.metadata import IDEMPOTENT, NOT_STARTED, PREVIOUS_ATTEMPTS, PUSHBACK, Pair

if TYPE_CHECKING:
    from grpc.aio import AioRpcError

    from pymicro.client.multicallable import MultiCallable
    from pymicro.client.target import Target
    from pymicro.node import Node

__all__ = ["Found", "Plan"]

_INTERNAL = grpc.StatusCode.INTERNAL.value[0]
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

# A deadline that is noticed this much too late, in seconds, says that this process was
# held up (its event loop blocked, itself suspended), and nothing about the node.
LATE = 0.05

# The pick, its node's channel, and whether that was READY.
Found = tuple[Pick, NodeChannel, bool]


class Plan:
    """One call of the user: its attempts, one after the other, each on another node.

    Attributes:
        attempts: Those made so far.
        live: Where calls in flight are listed, to be ended with their channel.
        owner: The call object that the user holds, or a weak reference to it where
            it is to end when it is dropped.
        committed: Whether messages of the call have passed either way: from then on
            it cannot be started again.
        node: The one that was tried last.
        deadline: The moment of the loop's clock for all attempts together; None without one.
    """

    __slots__ = (
        "_compression",
        "_credentials",
        "_doubtful",
        "_loop",
        "_metadata",
        "_method",
        "_replay",
        "_request",
        "_target",
        "_timeout",
        "_tried",
        "attempts",
        "committed",
        "deadline",
        "live",
        "node",
        "owner",
    )

    def __init__(
        self,
        method: MultiCallable,
        target: Target,
        live: set[Cancellable],
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._method = method
        self._target = target
        self.live = live
        self._request = request
        self._timeout = timeout
        self._metadata = metadata
        self._credentials = credentials
        self._compression = compression
        self.deadline = None if timeout is None else loop.time() + timeout
        self.owner: Any = None
        self.node: Node | None = None
        self._doubtful: Attempt | None = None
        self.attempts = 0
        self._tried: frozenset[str] = frozenset()
        self._replay: Replay | None = None
        # A handler that serves a retried call makes its own calls without retries: of three
        # layers only one tries again.
        serving = scope.get()
        self.committed = target.retry is None or (serving is not None and serving.active and serving.retried)
        if method.streams and request is not None and not self.committed:
            self._replay = Replay(request)

    def left(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._loop.time())

    def start(self, found: Found) -> Any:
        """Start the real call on a node. `wait_for_ready` is never handed down.

        On the channel of a dead node it would hang to the deadline; to us it means
        waiting for a node.
        """
        pick, channel, ready = found
        request, timeout, metadata = self._request, self._timeout, self._metadata
        if self.attempts:
            timeout = self.left()
            metadata = (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(self.attempts)))
        try:
            if self._replay is not None:
                request = self._replay.reader()
            call = channel.bind(self._method.spec)(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=self._credentials,
                compression=self._compression,
            )
        except BaseException:
            self._target.chooser.done(pick, CANCELLED)
            raise
        self.attempts += 1
        self.node = pick.node
        Attempt(call, pick, channel, ready, self)
        if self._method.logged:
            call.add_done_callback(log_end(self._method.callee, pick.node))
        return call

    async def start_later(self, wait_for_ready: bool) -> Any:
        """Start it as soon as there is a node."""
        try:
            found = await self._target.wait(self._method.spec.info, self.deadline, wait_for_ready)
            self._timeout = self.left()
            return self.start(found)
        except BaseException:
            self.owner = None
            raise

    def succeeded(self, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt has ended well."""
        target = self._target
        target.chooser.done(attempt.pick, outcome)
        target.budget.succeeded()
        self.owner = None
        spec = self._method.spec
        if not spec.asked_peer:
            # Once for each method: servers say it with every answer.
            spec.asked_peer = True
            spec.idempotent_there = _says(trailers_of(attempt.call), IDEMPOTENT)

    def failed(self, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt has ended with an error, or was cancelled: try again, or leave it at that."""
        late = outcome.code == _DEADLINE_EXCEEDED and self._had_no_time(attempt)
        self._target.chooser.done(attempt.pick, outcome, late)
        if outcome.code == _INTERNAL and self._method.streams and not self.committed:
            self._doubtful = attempt
        elif self.committed or outcome.local or not self._again(attempt, outcome):
            self.owner = None

    def _had_no_time(self, attempt: Attempt) -> bool:
        """Whether a deadline that has passed says nothing about the node.

        This process was held up, or the attempt was given only what others had left of the
        time; or the node says itself that it was too late to begin.
        """
        return (
            self.attempts > 1
            or (self.deadline is not None and self._loop.time() > self.deadline + LATE)
            or _says(trailers_of(attempt.call), NOT_STARTED)
        )

    def reconsider(self, error: AioRpcError) -> bool:
        """Whether the call goes on although it ended with this error, which differs from what was told first.

        A request that is written while the peer's refusal arrives fails in grpc-core,
        and grpc.aio makes INTERNAL of that before it has the peer's status.
        """
        attempt, self._doubtful = self._doubtful, None
        if attempt is None:
            return False
        goes_on = not self.committed and self._again(attempt, OUTCOMES[error.code().value[0]])
        if not goes_on:
            self.owner = None
        return goes_on

    def _again(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Start or prepare another attempt, if that is safe and allowed."""
        target, method = self._target, self._method
        if target.retry is None or (self._replay is not None and not self._replay.from_start):
            return False
        owner = self.owner() if method.drops else self.owner
        if owner is None:
            return False
        trailers = trailers_of(attempt.call)
        pushback = trailers.get(PUSHBACK)
        marked = _says(trailers, IDEMPOTENT) or method.idempotent
        pause = target.retry.pause(
            Failure(
                code=outcome.code,
                may_have_run=not _says(trailers, NOT_STARTED) and attempt.may_have_run(),
                idempotent=marked,
                attempts=self.attempts,
                left=self.left(),
                pushback=pushback if isinstance(pushback, str) else None,
            )
        )
        if pause is None:
            return False
        self._tried |= {attempt.pick.node.key}
        if pause > 0:
            method.defer(owner, partial(self._start_after, pause, attempt.call), self.deadline)
            return True
        found = self._find()
        if found is None:
            return False
        owner.begun(self.start(found))
        return True

    async def _start_after(self, pause: float, failed: Any) -> Any:
        """Another attempt after a pause; the failed one where there is no other node."""
        await asyncio.sleep(pause)
        found = self._find()
        if found is None:
            self.owner = None
            return failed
        return self.start(found)

    def _find(self) -> Found | None:
        """Another node to try, if there is one at once and the budget allows it."""
        target = self._target
        found = target.pick(CallInfo(self._method.path, self._tried))
        if found is not None and not target.may_retry():
            target.chooser.done(found[0], CANCELLED)
            return None
        return found


def _says(trailers: Mapping[str, str | bytes], pair: Pair) -> bool:
    return trailers.get(pair[0]) == pair[1]
