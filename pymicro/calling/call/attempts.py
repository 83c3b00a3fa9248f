"""A call on the network: starting it on a node, and starting it again on another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AioRpcError

from pymicro.balancing.balancer import CANCELLED, OUTCOMES, CallInfo, Outcome
from pymicro.balancing.policy.retry import Failure
from pymicro.base.loggers import logger
from pymicro.base.watchdog import stood_still
from pymicro.calling.call.end import End
from pymicro.calling.call.requests import Requests
from pymicro.calling.call.responses import Responses
from pymicro.calling.call.state import ENDED, RUNNING, WAITING
from pymicro.calling.call.tokens import attached
from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.gomicro import read_status
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, PREVIOUS_ATTEMPTS, PUSHBACK, Pair
from pymicro.rpc.wire.status import from_aio

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called
    from pymicro.calling.connections.target import PickedChannel, Target
    from pymicro.calling.connections.transport import NodeConnection, Status
    from pymicro.nodes.node import Node

__all__ = ["Attempts"]

log = logger("pymicro.client")

_OK = grpc.StatusCode.OK
_CANCELLED = grpc.StatusCode.CANCELLED
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
_INTERNAL = grpc.StatusCode.INTERNAL
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
_UNKNOWN = grpc.StatusCode.UNKNOWN
_OUTCOMES: dict[grpc.StatusCode, Outcome] = {code: OUTCOMES[code.value[0]] for code in grpc.StatusCode}
_WELL = OUTCOMES[0]
# Errors of go-micro services often have a number of their own (422, 10001), and only the status
# UNKNOWN fits those. They are answers about a request, as FAILED_PRECONDITION is, and five of them
# in a row must not eject a node.
_REFUSED = _OUTCOMES[grpc.StatusCode.FAILED_PRECONDITION]

# Seconds. If this process notices a deadline this much too late, it was held up itself (its event
# loop was blocked, or it was suspended). That says nothing about the node.
LATE = 0.05
# Seconds. Two ends measure one deadline by two clocks, and the peer's reset may come so much early.
EARLY = 0.005


class Attempts(Responses):
    """A call on the network: its attempts, one after the other, each on another node.

    It is the done callback of the network's calls, and the only place that decides whether
    there is another attempt.

    Args:
        called: The method that is called.
        target: Where its nodes are.
        request: The one request as bytes; None for a stream of them.
        requests: The iterator of a stream of requests; None if they are written.
        timeout: Seconds for all attempts together; None for no limit.
        metadata: Pairs that were checked, or None.
        credentials: Call credentials.
        compression: Of the requests.
        again: Whether another attempt may follow the first one.
    """

    _tried: frozenset[str] = frozenset()
    _requests: Requests | None = None
    _held = 0.0  # seconds of a deadline that passed in which our event loop stood still
    _trusts_peer = False  # whether another attempt rests on what the peer said of the method
    _counted: Any = None  # the last of the network's calls whose end was counted
    _unsure: Any = None  # one of them that has ended, but it is not known how
    _status: Any = None  # a Status, of the last attempt if that failed or streamed requests

    def __init__(
        self,
        called: Called,
        target: Target,
        request: bytes | None,
        requests: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
        again: bool,
    ) -> None:
        self.called = called
        self._target = target
        self._timeout = timeout
        self._arguments = request, metadata, credentials, compression
        record = target.record
        if record is not None:
            path = called.path
            self._record = record.methods.get(path) or record.method(path)
        self._began = monotonic()
        if timeout is not None:
            self.deadline = target.loop.time() + timeout
        if not again or target.retry is None:
            self.committed = True
        if requests is not None:
            self.iterates = True
            self._requests = Requests(requests, keep=not self.committed)

    @property
    def node(self) -> Node | None:
        return self._found[0].node if self._found is not None else None

    def begin(self, wait_for_ready: bool) -> None:
        """Start the first attempt, now if there is a node, or as soon as there is one.

        Without `wait_for_ready` in the network's call: with it, grpc-core would wait on a
        dead node's channel until the deadline. To us it means waiting for a node.
        """
        called = self.called
        called.channel.live.add(self)
        found = self._target.pick(called.method.info)
        if found is None:
            self._later(self._begin_later, wait_for_ready)
        else:
            try:
                self._start(found, self._timeout)
            except Exception as exc:
                self.fail(exc)
        if self._requests is not None and self.phase is not ENDED:
            self.pump = called.channel.tasks.start(
                self._requests.run(self), f"requests of {called.path}", inherit=True
            )
            if self.phase is ENDED:
                self.pump.cancel()

    def _later(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Go on with this, in a task; what it raises ends the call."""

        async def go_on() -> None:
            try:
                await work(*arguments)
            except asyncio.CancelledError:
                self.cancel()
                raise
            except Exception as exc:
                self.task = None
                self.fail(exc)

        task = self.called.channel.tasks.start(go_on(), f"call {self.called.path}", inherit=True)
        if self.phase is WAITING:  # a task may run at once
            self.task = task

    async def _begin_later(self, wait_for_ready: bool) -> None:
        target = self._target
        found = await target.wait(self.called.method.info, self.deadline, wait_for_ready)
        self.task = None
        self._attempted = monotonic()
        if target.record is not None:
            target.record.waits.add(self._attempted - self._began)
        self._start(found, self._left())

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self._target.loop.time())

    def _start(self, found: PickedChannel, timeout: float | None) -> None:
        """Start an attempt on a node."""
        pick, channel, _ = found
        request, metadata, credentials, compression = self._arguments
        if self.made:
            metadata = (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(self.made)))
        try:
            start = channel.bind(self.called.method)
            if credentials is not None:
                where = f"{self.called.service} at {channel.node.address}"
                metadata, credentials = attached(credentials, metadata, channel.secured is not None, where)
            network = start(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                compression=compression,
            )
        except BaseException:
            self._target.chooser.done(pick, CANCELLED)
            raise
        self._found = found
        self._said = channel.said
        self.made += 1
        if self._record is not None:
            self._record.started += 1
        channel.calls += 1
        self.inner = network
        self.phase = RUNNING
        if self._waiters:
            self._wake()
        if self.made > 1 and self._requests is not None:
            self._requests.send_again(network)
        network.add_done_callback(self)

    # The end of an attempt

    def __call__(self, network: Any) -> None:
        """The network's call has ended: count it, and decide whether there is another attempt."""
        if not self._in_question(network):
            return
        code = self._found[1].connection.code(network)
        if code is None:
            self._ask_again(network)
        else:
            self._decide(network, code)

    def _in_question(self, network: Any) -> bool:
        """Whether this is the present attempt, and its end was not counted yet.

        grpc.aio may tell of one end twice, and again when another attempt has taken its place.
        """
        return network is self.inner and network is not self._counted

    def _ask_again(self, network: Any) -> None:
        """The transport does not know yet how the call ended."""
        tasks = self.called.channel.tasks
        if tasks.closed:
            self._decide(network, _INTERNAL)
        elif network is not self._unsure:
            self._unsure = network
            work = self._await_last_word(network, self._found[1].connection)
            tasks.start(work, f"end of {self.called.path}", inherit=True)

    async def _await_last_word(self, network: Any, connection: NodeConnection) -> None:
        try:
            await connection.last_word(network)
        finally:
            if self._in_question(network):
                self._decide(network, connection.code(network) or _INTERNAL)

    def _decide(self, network: Any, code: grpc.StatusCode) -> None:
        self._counted = network
        called, target = self.called, self._target
        pick, channel, _ = self._found
        channel.calls -= 1
        if channel.retired:
            channel.close_after_last()
        # Kept, since what a failing write makes of it later says nothing of the end.
        self._status = channel.connection.status(network) if code is not _OK or called.streams else None
        if code is not _OK:
            if self._failed(code):
                return
        else:
            self.code = _OK
            try:
                target.chooser.done(pick, _WELL)
            except Exception as exc:  # of a plug-in's balancer; it must fail no call
                target.balancer_failed(exc)
            target.budget.succeeded()
            if called.path not in self._said:
                # Once for each method and connection: servers repeat it in every answer.
                self._hear(self._trailers())
            if called.channel.logged:
                self._log("status 0")
        self.finish()

    def _failed(self, code: grpc.StatusCode) -> bool:
        """Count a failure; True if there is another attempt."""
        pick, channel, _ = self._found
        if code is _CANCELLED and channel.connection.cancelled_here(self.inner):
            self.code = code
            outcome = CANCELLED
        else:
            meant, _, error = read_status(code, self._status.details)
            self.code = self._by_deadline(meant)
            refused = (meant is _UNKNOWN and error is not None and error.code // 100 != 5) or (
                # A node that has answered on this connection is of the service, and lacks one method only.
                # Whoever has answered nothing else may be a stranger at the node's address.
                meant is _UNIMPLEMENTED and bool(self._said)
            )
            outcome = _REFUSED if refused else _OUTCOMES[self.code]
        late = self.code is _DEADLINE_EXCEEDED and (self._heard or self._had_no_time())
        if self.code is _DEADLINE_EXCEEDED and self.deadline is not None and self._timeout is not None:
            ago = self._target.loop.time() - self.deadline + self._timeout
            self._held = stood_still(monotonic() - ago)
        try:
            self._target.chooser.done(pick, outcome, late)
        except Exception as exc:
            self._target.balancer_failed(exc)
        if self.called.channel.logged:
            self._log("cancelled here" if outcome.local else f"status {self.code.value[0]}")
        return not (self.committed or outcome.local or self._failure) and self._again(outcome)

    def _log(self, end: str) -> None:
        log.debug("%s on %s: %s", self.called.callee, self._found[0].node.address, end)

    def _by_deadline(self, code: grpc.StatusCode) -> grpc.StatusCode:
        """DEADLINE_EXCEEDED if that is what the code means.

        The peer keeps the same deadline: if its clock is ahead, its reset arrives first, as CANCELLED,
        and a write that meets it fails as INTERNAL, of which the transport was not sure.
        """
        if code is _CANCELLED or (code is _INTERNAL and self._unsure is not None):
            deadline = self.deadline
            if deadline is not None and self._target.loop.time() > deadline - EARLY:
                return _DEADLINE_EXCEEDED
        return code

    def _trailers(self) -> Mapping[str, str | bytes]:
        return dict(tuple((self._status or self._found[1].connection.status(self.inner)).trailing))

    def _hear(self, trailers: Mapping[str, str | bytes]) -> None:
        """Keep what the peer says of the method, for as long as this connection lasts."""
        # A call that was started before there was a connection does not know which one it got,
        # and a name stands for many processes, each of which speaks for itself.
        _, channel, ready = self._found
        if ready and channel.node.kind != "name":
            self._said[self.called.path] = _says(trailers, IDEMPOTENT)

    def _marked(self, trailers: Mapping[str, str | bytes]) -> bool:
        """Whether the method may run twice: by the caller, its proto, or the peer that was called."""
        if _says(trailers, IDEMPOTENT):
            self._hear(trailers)
            return True
        called = self.called
        return called.idempotent or (self._found[2] and self._said.get(called.path, False))

    def _may_have_run(self) -> bool:
        """Whether the request can have been sent, judged by the connection's states.

        It cannot if the connection was not READY when the call started and has not
        been READY since.
        """
        _, channel, ready = self._found
        # Each connection begins with another dictionary of what was said.
        return ready or channel.said is not self._said or channel.ready()

    def _had_no_time(self) -> bool:
        """Whether a deadline passed without saying anything about the node.

        That is so if this process was held up, if earlier attempts had used up part of the
        time, or if the node says that the call reached it too late to begin.
        """
        return (
            self.made > 1
            or (self.deadline is not None and self._target.loop.time() > self.deadline + LATE)
            or _says(self._trailers(), NOT_STARTED)
        )

    # Another attempt

    def _again(self, outcome: Outcome) -> bool:
        """Start or prepare another attempt, if that is safe and allowed."""
        target, called = self._target, self.called
        if target.retry is None or (self._requests is not None and not self._requests.from_start):
            return False
        if called.channel.tasks.closed:  # the client is closing
            return False
        trailers = self._trailers()
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
                left=self._left(),
                pushback=pushback if isinstance(pushback, str) else None,
            )
        )
        if pause is None:
            return False
        self._tried |= {self._found[0].node.key}
        if pause > 0:
            self._write_attempt(outcome.code, monotonic())
            self._paused += pause
            failed = self.inner
            self.wait()
            self._later(self._start_after, pause, failed)
            return True
        found = self._find()
        if found is None:
            return False
        now = monotonic()
        self._write_attempt(outcome.code, now)
        self._attempted = now
        try:
            self._start(found, self._left())
        except Exception as exc:
            self.fail(exc)
        return True

    async def _start_after(self, pause: float, failed: Any) -> None:
        """Make another attempt after a pause; without another node, the failed one was the last."""
        await asyncio.sleep(pause)
        found = self._find()
        self.task = None
        if found is not None:
            self._attempted = monotonic()
            self._start(found, self._left())
        else:
            self.inner = failed
            self.finish()

    def _find(self) -> PickedChannel | None:
        """Another node to try, if one is there at once and the budget allows a retry."""
        target, path = self._target, self.called.path
        streams = self.called.method.info.streams
        while (found := target.pick(CallInfo(path, self._tried, streams))) is not None:
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

    # The end of the call

    def written_when_read(self) -> None:
        self.__class__ = _Unawaited

    def fail(self, error: BaseException) -> bool:
        if self.phase is ENDED:
            return False
        self._failure = error
        if self.phase is RUNNING:
            self.inner.cancel()  # which ends the attempt, and so the call
        self.finish()
        return True

    def make_end(self) -> End:
        called, network = self.called, self.inner
        if network is None:
            assert self._failure is not None, "ended without a reason"
            return End.failed(self._failure, called.callee)
        status = self._status or self._found[1].connection.status(network)
        if self._failure is not None:
            return End.failed(self._failure, called.callee, status)
        if self.code is _OK:
            return End(_OK, status.details, status.initial, status.trailing, status.debug)
        code, details, error = read_status(status.code, status.details)
        if self._held and error is None:
            details += f"; the event loop of this process stood still for {self._held:.1f} s of it"
            status = replace(status, details=details)
        if self.code is _CANCELLED and self._found[1].connection.cancelled_here(network):
            make_error: Callable[[], BaseException] = asyncio.CancelledError
        elif self.code is code:
            make_error = partial(_error, status, self.node, called.callee, self.made)
        else:
            code, details = self.code, f"the deadline passed (the transport says {code.name}: {details})"
            status = replace(status, code=code, details=details)
            make_error = partial(_error, status, self.node, called.callee, self.made)
        cancelled = status.code is _CANCELLED
        return End(code, details, status.initial, status.trailing, status.debug, make_error, cancelled)


class _Unawaited(Attempts):
    """A call that has ended with a response for which nobody waited.

    It is written down when the response is read, or here, when nobody can read it any more. Not in the
    class above: `__del__` would cost each call.
    """

    def __del__(self) -> None:
        if self._owed:
            self.write_end()


def _error(status: Status, node: Node | None, callee: str, made: int) -> RpcError:
    # No method: the end would hold the call that holds it.
    error = AioRpcError(status.code, status.initial, status.trailing, status.details, status.debug)
    return from_aio(error, node=node, callee=callee, attempts=made)


def _says(trailers: Mapping[str, str | bytes], pair: Pair) -> bool:
    return trailers.get(pair[0]) == pair[1]
