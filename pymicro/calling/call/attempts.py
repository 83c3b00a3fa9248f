"""Starting a call on a node, and starting it again on another one."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, CallInfo, Outcome
from pymicro.balancing.policy.retry import Failure
from pymicro.calling.call.outcomes import log_end, outcome_of, trailers_of
from pymicro.calling.call.replay import Replay
from pymicro.calling.connections.node_channel import Cancellable
from pymicro.calling.connections.target import wrong_loop
from pymicro.rpc.scope import scope
from pymicro.rpc.wire.gomicro import read_status
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, PREVIOUS_ATTEMPTS, PUSHBACK, Pair

if TYPE_CHECKING:
    from grpc.aio import AioRpcError

    from pymicro.calling.call.called import Called
    from pymicro.calling.connections.target import PickedChannel, Target
    from pymicro.nodes.node import Node

__all__ = ["Attempts"]

_INTERNAL = grpc.StatusCode.INTERNAL.value[0]
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

# Seconds. If this process notices a deadline this much too late, it was held up itself (its event
# loop was blocked, or it was suspended). That says nothing about the node.
LATE = 0.05


class Attempts:
    """One call of the user: its attempts, one after the other, each on another node.

    It is the done callback of each real call. It holds no strong reference to a call
    object that ends when it is dropped, so that such a stream can be collected.

    Attributes:
        made: The number of attempts so far.
        live: The list of calls in flight, which end with their channel.
        owner: The call object that the user holds; a weak reference to it if the
            call ends when the user drops it.
        committed: Whether messages of the call have passed either way. If so, the call
            cannot be started again.
        call: The real call of the last attempt.
        deadline: The moment of the loop's clock for all attempts together; None without one.
    """

    # The defaults are on the class: a call pays only for what it uses.
    made = 0
    committed = False
    deadline: float | None = None
    owner: Any = None
    call: Any = None
    _pick: Any = None  # a Pick, from the first attempt on
    _tried: frozenset[str] = frozenset()
    _replay: Replay | None = None
    _doubtful = False
    _trusts_peer = False  # whether another attempt rests on what the peer said of the method

    def __init__(
        self,
        called: Called,
        target: Target,
        live: set[Cancellable],
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> None:
        self._called = called
        self._target = target
        self.live = live
        self._request = request
        self._timeout = timeout
        self._metadata = metadata
        self._credentials = credentials
        self._compression = compression
        self._loop = loop = target.loop
        if _get_running_loop() is not loop:
            raise wrong_loop(called.service)
        if timeout is not None:
            self.deadline = loop.time() + timeout
        # A handler that serves a retried call makes its own calls without retries: only one of
        # three layers tries again.
        serving = scope.get()
        if target.retry is None or (serving is not None and serving.active and serving.retried):
            self.committed = True
        elif called.streams and request is not None:
            self._replay = Replay(request)

    @property
    def node(self) -> Node | None:
        """The node of the last attempt."""
        return self._pick.node if self._pick is not None else None

    def left(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._loop.time())

    def start(self, found: PickedChannel) -> Any:
        """Start the real call on a node, without `wait_for_ready`.

        With it, grpc-core would wait on a dead node's channel until the deadline. To us
        it means waiting for a node.
        """
        pick, channel, ready = found
        request, timeout, metadata = self._request, self._timeout, self._metadata
        if self.made:
            timeout = self.left()
            metadata = (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(self.made)))
        try:
            if self._replay is not None:
                request = self._replay.reader()
            call = channel.bind(self._called.method)(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=self._credentials,
                compression=self._compression,
            )
        except BaseException:
            self._target.chooser.done(pick, CANCELLED)
            raise
        self.made += 1
        self.call = call
        self._pick = pick
        self._channel = channel
        self._ready = ready
        self._readies = channel.readies
        self._said = channel.said
        channel.calls.add(self)
        self.live.add(self)
        call.add_done_callback(self)
        if self._called.logged:
            call.add_done_callback(log_end(self._called.callee, pick.node))
        return call

    async def start_later(self, wait_for_ready: bool) -> Any:
        """Start it as soon as there is a node."""
        try:
            found = await self._target.wait(self._called.method.info, self.deadline, wait_for_ready)
            self._timeout = self.left()
            return self.start(found)
        except BaseException:
            self.owner = None
            raise

    def __call__(self, call: Any) -> None:
        """The real call has ended: stop counting it, report how it ended, and retry it if it failed."""
        self.live.discard(self)
        self._channel.ended(self)
        outcome = outcome_of(call)
        if outcome.code:
            self._failed(outcome)
            return
        target = self._target
        target.chooser.done(self._pick, outcome)
        target.budget.succeeded()
        self.owner = None
        if self._called.path not in self._said:
            # Once for each method and connection: servers repeat it in every answer.
            self._hear(trailers_of(call))

    def cancel(self) -> bool:
        """Cancel the real call; False if it had ended."""
        return bool(self.call.cancel())

    def _failed(self, outcome: Outcome) -> None:
        late = outcome.code == _DEADLINE_EXCEEDED and self._had_no_time()
        self._target.chooser.done(self._pick, outcome, late)
        if outcome.code == _INTERNAL and self._called.streams and not self.committed:
            self._doubtful = True
        elif self.committed or outcome.local or not self._again(outcome):
            self.owner = None

    def _hear(self, trailers: Mapping[str, str | bytes]) -> None:
        """Keep what the peer says of the method, for as long as this connection lasts."""
        # A call that was started before there was a connection does not know which one it got,
        # and a name stands for many processes, each of which speaks for itself.
        if self._ready and self._channel.node.kind != "name":
            self._said[self._called.path] = _says(trailers, IDEMPOTENT)

    def _marked(self, trailers: Mapping[str, str | bytes]) -> bool:
        """Whether the method may run twice: by the caller, its proto, or the peer that was called."""
        if _says(trailers, IDEMPOTENT):
            self._hear(trailers)
            return True
        called = self._called
        return called.idempotent or (self._ready and self._said.get(called.path, False))

    def _may_have_run(self) -> bool:
        """Whether the request can have been sent, judged by the connection's states.

        It cannot if the connection was not READY when the call started and has not
        been READY since.
        """
        channel = self._channel
        return self._ready or channel.readies != self._readies or channel.ready()

    def _had_no_time(self) -> bool:
        """Whether a deadline passed without saying anything about the node.

        That is so if this process was held up, if earlier attempts had used up part of the
        time, or if the node says that the call reached it too late to begin.
        """
        return (
            self.made > 1
            or (self.deadline is not None and self._loop.time() > self.deadline + LATE)
            or _says(trailers_of(self.call), NOT_STARTED)
        )

    def reconsider(self, error: AioRpcError) -> bool:
        """Whether the call goes on although it ended with this error, which differs from the first report.

        The two differ if a stream writes a request while the peer's refusal arrives
        (see `rpc.grpcio`).
        """
        if not self._doubtful:
            return False
        self._doubtful = False
        code, _, _ = read_status(error.code(), error.details() or "")
        goes_on = not self.committed and self._again(OUTCOMES[code.value[0]])
        if not goes_on:
            self.owner = None
        return goes_on

    def _again(self, outcome: Outcome) -> bool:
        """Start or prepare another attempt, if that is safe and allowed."""
        target, called = self._target, self._called
        if target.retry is None or (self._replay is not None and not self._replay.from_start):
            return False
        owner = self.owner() if called.drops else self.owner
        if owner is None:
            return False
        trailers = trailers_of(self.call)
        pushback = trailers.get(PUSHBACK)
        may_have_run = not _says(trailers, NOT_STARTED) and self._may_have_run()
        if may_have_run and not called.idempotent:
            self._trusts_peer = True
        pause = target.retry.pause(
            Failure(
                code=outcome.code,
                may_have_run=may_have_run,
                idempotent=self._marked(trailers),
                attempts=self.made,
                left=self.left(),
                pushback=pushback if isinstance(pushback, str) else None,
            )
        )
        if pause is None:
            return False
        self._tried |= {self._pick.node.key}
        if pause > 0:
            called.defer(owner, partial(self._start_after, pause, self.call), self.deadline)
            return True
        found = self._find()
        if found is None:
            return False
        owner.begun(self.start(found))
        return True

    async def _start_after(self, pause: float, failed: Any) -> Any:
        """Make another attempt after a pause; return the failed call if there is no other node."""
        await asyncio.sleep(pause)
        found = self._find()
        if found is None:
            self.owner = None
            return failed
        return self.start(found)

    def _find(self) -> PickedChannel | None:
        """Another node to try, if one is there at once and the budget allows a retry."""
        target, path = self._target, self._called.path
        while (found := target.pick(CallInfo(path, self._tried))) is not None:
            pick, channel, _ = found
            # A node of another version may say that the method must not run twice.
            refuses = self._trusts_peer and channel.said.get(path) is False
            if not refuses and target.may_retry():
                return found
            target.chooser.done(pick, CANCELLED)
            if not refuses or pick.node.key in self._tried:
                break  # the budget is spent; or a plug-in's balancer picks the same node again
            self._tried |= {pick.node.key}
        return None


def _says(trailers: Mapping[str, str | bytes], pair: Pair) -> bool:
    return trailers.get(pair[0]) == pair[1]
