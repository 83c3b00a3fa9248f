"""`CallContext`: what a handler knows about the call it serves, and what it can do with it."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

import grpc
from grpc.aio import EOF, Metadata, ServicerContext, UsageError

from pymicro.base.recorder import ServerRecord
from pymicro.identity.caller import KnownCaller, caller_of
from pymicro.rpc import scope as scopes
from pymicro.rpc.grpcio import CallerGone, let_events_arrive, to_its_end
from pymicro.rpc.interceptors import Mapper, apply
from pymicro.rpc.status import text_of
from pymicro.rpc.wire.metadata import (
    IDEMPOTENT,
    LIMIT,
    PREVIOUS_ATTEMPTS,
    STANDARD_PREVIOUS_ATTEMPTS,
    Pair,
    checked,
    size_of,
)
from pymicro.rpc.wire.shape import Shape
from pymicro.rpc.wire.status import clip
from pymicro.serving.call.requests import receive
from pymicro.serving.call.trailers import sendable
from pymicro.serving.yielded import StateT, Yielded

if TYPE_CHECKING:
    from pymicro.serving.call.access_log import AccessLog
    from pymicro.serving.call.authorization import Authorizer
    from pymicro.serving.call.rpc_codec import RpcCodec
    from pymicro.telemetry.tracing import ServedSpan, Tracing

__all__ = ["CallContext", "Draining", "Serving", "current"]


# What `caller` has found out so far: nothing.
_NOT_ASKED: Any = object()
_ATTEMPTS = (PREVIOUS_ATTEMPTS, STANDARD_PREVIOUS_ATTEMPTS)

T = TypeVar("T")
Emit = Callable[[Any], Coroutine[Any, Any, None]]


def current() -> CallContext[Any]:
    """The context of the call being served here.

    Raises:
        NoCall: No handler runs here, or the handler that started this task has returned.
    """
    found = scopes.current_scope()
    if isinstance(found, CallContext):
        return found
    raise scopes.NoCall("pymicro.current() was called outside a handler")


class Draining:
    """Whether the server is about to stop, for long streams that want to end politely.

    In a condition it is true once the server drains; `await draining.wait()` waits for that.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def is_set(self) -> bool:
        """The same as `bool(draining)`."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once the server drains; at once if it drains already."""
        await self._event.wait()

    def begin(self) -> None:
        """Tell everybody who waits. The server calls this."""
        self._event.set()


@dataclass(slots=True)
class Serving:
    """What all calls of one server share.

    Attributes:
        calls: The calls in progress, health and reflection not counted.
        thread: The event loop's thread.
        limit: How many calls may be in progress.
        refused: Calls refused because of the limit since the last log line about it.
        told: When that line was written, a moment of `time.monotonic()`.
        last: When the last call arrived, a moment of `time.monotonic()`.
        interrupted: Whether a handler raised KeyboardInterrupt.
        has_cancelled: The transport's.
        record: Where calls are counted; None if they are not.
        tracing: Makes spans of calls; None for none. Set before the first call.
        access: Lists calls that have ended; None for none.
        yielded: What handlers see as `context.state`.
        debug_errors: Whether callers on this machine are told what an internal error is.
        guard: Says who may call what; None if callers have no way to prove who they are.
    """

    loop: asyncio.AbstractEventLoop
    draining: Draining = field(default_factory=Draining)
    calls: set[CallContext[Any]] = field(default_factory=set)
    thread: int = field(default_factory=threading.get_ident)
    limit: float = math.inf
    refused: int = 0
    told: float = -math.inf
    last: float = -math.inf
    interrupted: bool = False
    has_cancelled: Callable[[asyncio.Task[Any]], bool] = lambda task: True
    record: ServerRecord | None = None
    tracing: Tracing | None = None
    access: AccessLog | None = None
    yielded: Yielded = field(default_factory=lambda: Yielded("this server", expected=False))
    debug_errors: bool = False
    guard: Authorizer | None = None

    def interrupt(self) -> None:
        """Act like Ctrl-C: a handler raised KeyboardInterrupt.

        The exception itself would leave the event loop in the middle of grpc's work, which can end
        the process by a segmentation fault.
        """
        self.interrupted = True
        signal.raise_signal(signal.SIGINT)


class CallContext(ServicerContext[Any, Any], Generic[StateT]):
    """One served call: everything that grpc's `ServicerContext` offers, and more.

    Each property is looked up when the handler asks for it. Use it while the handler
    runs: afterwards, methods that need the live call raise `grpc.aio.UsageError`.

    In a handler that runs in a thread, the coroutine methods (`abort`,
    `send_initial_metadata`, …) block and return their result instead.

    `CallContext[Database]` is the context in a service whose lifespan yields a
    `Database`: `state` has that type then.

    Attributes:
        active: False once the handler has returned.
        task: In which the handler runs; None once it has returned.
        deadline: The caller's deadline as a moment of `time.monotonic()`; None without
            one. Computed once: grpc uses the wall clock, which may be set meanwhile.
        began: When it was admitted, a moment of `time.monotonic()`.
        coded: Whether the handler has set a code, and so may end with another status than OK
            although it returns.
        span: Its span; None without tracing.
    """

    active: bool = True
    began: float = 0.0
    coded: bool = False
    span: ServedSpan | None = None

    # The defaults are on the class: a call pays only for what it uses.
    _was_cancelled: bool = False
    _pairs: tuple[Pair, ...] | None = None
    _metadata: Metadata | None = None
    _given_trailing: tuple[Pair, ...] | None = None
    _own_trailing: tuple[Pair, ...] = ()
    _previous_attempts: int | None = None
    _peer: str | None = None
    _caller: Any = _NOT_ASKED
    _emit: Emit | None = None
    request_mappers: tuple[Mapper, ...] = ()
    response_mappers: tuple[Mapper, ...] = ()

    def __init__(self, context: Any, codec: RpcCodec, serving: Serving, deadline: float | None) -> None:
        self._context = context
        self.deadline = deadline
        self._codec = codec
        self._serving = serving
        self.task: asyncio.Task[Any] | None = asyncio.current_task()

    # What the caller sent

    @property
    def method(self) -> str:
        """`/package.Service/Method`."""
        return self._codec.path

    @property
    def shape(self) -> Shape:
        """Which sides stream."""
        return self._codec.shape

    @property
    def metadata(self) -> Metadata:
        """The request's metadata."""
        if self._metadata is None:
            self._metadata = Metadata(*self._sent_pairs())
        return self._metadata

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpc's stub forgets calls without a deadline
        """Seconds until the caller's deadline, not below 0; None without one."""
        deadline = self.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def forwarded(self, names: frozenset[str]) -> Sequence[tuple[str, str | bytes]]:
        """The caller's metadata whose (lower-case) keys are in `names`."""
        return [(key, value) for key, value in self._sent_pairs() if key in names]

    @property
    def previous_attempts(self) -> int:
        """How often the caller, or a caller before it, has tried this call already.

        From `pymicro-previous-attempts` or grpc's own `grpc-previous-rpc-attempts`;
        0 if neither is a number.
        """
        if self._previous_attempts is None:
            counts = (_count(value) for key, value in self._sent_pairs() if key in _ATTEMPTS)
            self._previous_attempts = max(counts, default=0)
        return self._previous_attempts

    @property
    def retried(self) -> bool:
        """Whether this is not the first attempt; if so, onward calls are made without retries."""
        return self.previous_attempts > 0

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]  # as grpc returns it
        """The request's metadata as grpc gives it: a tuple of pairs."""
        return self._sent_pairs()

    def peer(self) -> str:
        """The caller's address as grpc writes it: `ipv4:127.0.0.1:50312`."""
        if self._peer is None:
            self._peer = cast("str", self._live().peer())
        return self._peer

    @property
    def caller(self) -> KnownCaller | None:
        """Who calls, by a certificate, a token or an API key; None if the caller has shown none of these."""
        if self._caller is _NOT_ASKED:
            self._caller = caller_of(self._live().auth_context())
        return cast("KnownCaller | None", self._caller)

    def peer_identities(self) -> Iterable[bytes] | None:
        """As in grpc."""
        return cast("Iterable[bytes] | None", self._live().peer_identities())

    def peer_identity_key(self) -> str | None:
        """As in grpc."""
        return cast("str | None", self._live().peer_identity_key())

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """As in grpc."""
        return cast("Mapping[str, Iterable[bytes]]", self._live().auth_context())

    @property
    def state(self) -> StateT:
        """What the service's lifespan yielded; of any call, and in any thread.

        Raises:
            PymicroError: The service has no lifespan.
        """
        return cast("StateT", self._serving.yielded.get())

    # The state of the call

    @property
    def draining(self) -> Draining:
        """Whether the server is about to stop."""
        return self._serving.draining

    def cancelled(self) -> bool:
        """Whether the caller cancelled the call or its deadline passed."""
        task = self.task
        return self._was_cancelled or (self.active and task is not None and task.cancelling() > 0)

    def done(self) -> bool:
        """Whether the status has been sent."""
        return bool(self._context.done())

    def is_active(self) -> bool:
        """Whether the call still goes on (the name in grpc's threaded API)."""
        return self.active and not self.cancelled() and not self.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this context once the call has ended."""
        self.peer()  # callbacks most often want the peer, and grpc no longer gives it then
        self._live().add_done_callback(lambda _: callback(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` once the call has ended (grpc's threaded API); False if it has already."""
        if not self.is_active():
            return False
        self._live().add_done_callback(lambda _: callback())
        return True

    # Metadata and status sent to the caller

    def send_initial_metadata(self, initial_metadata: Any) -> Coroutine[Any, Any, None]:
        """Send initial metadata now, before any response."""
        pairs = checked(initial_metadata)
        return self._run(to_its_end(self._live().send_initial_metadata(pairs)))

    def set_trailing(self, key: str, value: str | bytes) -> None:
        """Add one pair to the trailing metadata; bytes for a key that ends in `-bin`.

        Keys that begin with `pymicro-` are ours and left out here. While a received
        error is handled, its pushback is left out too. Neither is about this call.

        Raises:
            ValueError: The metadata cannot be sent, or is more than callers accept.
        """
        pairs = sendable([(key, value)], sys.exception())
        self._set_trailing(self._given_trailing, (*self._own_trailing, *pairs))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Replace what this method set before; pairs that `set_trailing` added stay."""
        self._set_trailing(sendable(trailing_metadata, sys.exception()), self._own_trailing)

    def trailing_metadata(self) -> tuple[Pair, ...]:  # type: ignore[override]  # as grpc returns it
        """The trailing metadata set so far."""
        return tuple(self._context.trailing_metadata() or ())

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status to end with, unless an exception gives another one."""
        self.coded = True
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """Set the text that goes with the code."""
        self._context.set_details(clip(text_of(details)))

    def code(self) -> grpc.StatusCode:
        """The code set so far; None if none was."""
        return cast("grpc.StatusCode", self._context.code())

    def details(self) -> str:
        """The text set so far."""
        return cast("str", self._context.details())

    def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> Coroutine[Any, Any, NoReturn]:
        """End the call with this status, by an exception that a handler must not catch."""
        if code in (grpc.StatusCode.OK, 0):
            raise ValueError("a call cannot be aborted with OK")
        pairs = sendable(trailing_metadata or (), sys.exception())
        if pairs and self._codec.handler.idempotent:
            pairs = (*pairs, IDEMPOTENT)  # abort's pairs replace all that was set before
        return self._run(self._live().abort(code, clip(text_of(details)), pairs))

    def abort_with_status(self, status: grpc.Status) -> Coroutine[Any, Any, NoReturn]:
        """`abort` with the code, text and metadata of a `grpc.Status`."""
        return self.abort(status.code, status.details, status.trailing_metadata)

    def set_compression(self, compression: grpc.Compression) -> None:
        """As in grpc; before anything was sent."""
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """As in grpc."""
        self._context.disable_next_message_compression()

    # grpc's reader and writer interface

    def read(self) -> Coroutine[Any, Any, Any]:
        """The next request of a stream; `grpc.aio.EOF` after the last."""
        return self._run(self._read())

    def write(self, message: Any) -> Coroutine[Any, Any, None]:
        """Send one response of a stream; waits while the caller does not read.

        Raises:
            UsageError: The method answers with one response, which its handler returns.
        """
        # grpc would send it, and then could send neither the handler's response nor a status.
        if not self.shape.response_streaming:
            raise UsageError(f"{self.method} answers with one response: return it instead of writing it")
        return self._run(self._write(message))

    # What interceptors use

    def map_requests(self, mapper: Mapper) -> None:
        """Pass every request through `mapper` (see `pymicro.rpc.interceptors`)."""
        self.request_mappers = (*self.request_mappers, mapper)

    def map_responses(self, mapper: Mapper) -> None:
        """Pass every response through `mapper`; the mapper added last comes first."""
        self.response_mappers = (mapper, *self.response_mappers)

    # What dispatch uses

    @property
    def emit(self) -> Emit:
        """Where encoded responses go: to grpc, unless dispatch has set another place."""
        return self._emit or cast("Emit", self._live().write)

    @emit.setter
    def emit(self, emit: Emit) -> None:
        self._emit = emit

    def mark_idempotent(self) -> None:
        """Tell the caller with the answer, whatever it is, that the method may run twice."""
        given = self._given_trailing = self.trailing_metadata()  # outer interceptors may have set these
        self._own_trailing = (IDEMPOTENT,)
        self._context.set_trailing_metadata((*given, IDEMPOTENT))

    def know(self, caller: KnownCaller | None) -> None:
        """Take who calls from whoever has found it out."""
        self._caller = caller

    def leave(self) -> None:
        """The handler has returned. Without the task, no cycle is left for the garbage collector.

        The task's ContextVars hold this context.
        """
        self.active = False
        self.task = None

    def mark_cancelled(self) -> None:
        """Remember the cancellation for a thread that asks after the task has ended."""
        self._was_cancelled = True

    def __repr__(self) -> str:
        return f"<CallContext {self.method} {'active' if self.active else 'ended'}>"

    def _live(self) -> Any:
        # grpc frees the underlying call when it ends; touching it afterwards crashes the process.
        if not self.active:
            raise UsageError(f"the call of {self.method} has ended; this is only to be had in its handler")
        return self._context

    def _sent_pairs(self) -> tuple[Pair, ...]:
        if self._pairs is None:
            self._pairs = tuple(self._context.invocation_metadata() or ())
        return self._pairs

    def _set_trailing(self, given: tuple[Pair, ...] | None, own: tuple[Pair, ...]) -> None:
        if given is None:
            given = self.trailing_metadata()  # outer interceptors may have set these
        size = size_of((*given, *own))
        if size > LIMIT:
            raise ValueError(f"trailing metadata of {size} bytes: callers refuse more than 8 KiB in all")
        self._given_trailing, self._own_trailing = given, own
        self._context.set_trailing_metadata((*given, *own))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        serving = self._serving
        if threading.get_ident() == serving.thread:
            return coroutine
        result = asyncio.run_coroutine_threadsafe(coroutine, serving.loop).result()
        return cast("Coroutine[Any, Any, T]", result)  # threads have no `await`: see the class's docstring

    async def _read(self) -> Any:
        read = self._live().read
        message = await (receive(read, self._codec.parse, self._codec.aside) if self._codec.raw else read())
        if message is EOF or not self.request_mappers:
            return message
        return await apply(self.request_mappers, message)

    async def _write(self, message: Any) -> None:
        emit = self.emit
        if self.response_mappers:
            message = await apply(self.response_mappers, message)
        try:
            await emit(self._codec.encode(message))
        except CallerGone:
            await let_events_arrive()  # the cancellation of this call is on its way
            raise


def _count(value: str | bytes) -> int:
    """A number of attempts; 0 for anything else, and for a number that is impossibly large."""
    plain = isinstance(value, str) and len(value) <= 9 and value.isascii() and value.isdigit()
    return int(value) if plain else 0
