"""What grpcio happens to do, and does not promise: this module lists every such fact pymicro rests on.

Each was seen in grpcio 1.85.3 (1.68, the lowest that pymicro takes, ends a stream that nobody holds
and survives a path that is no UTF-8). `tests/rpc/test_grpcio.py` holds each against bare grpc.aio: if
a test there fails, grpcio has changed, and the test says what depends on that here.

These facts need no code of their own:

- If a deserializer or a serializer raises, grpc ends the served call with the exception's text,
  which the caller reads. So `serving.call` hands grpc serializers that say nothing of the message.
- If a request is not bytes after its serializer, the await of the call raises TypeError, but the
  call does not end. If a serializer raises, grpc only logs that, and the call goes out without a
  message; if a deserializer raises, the response is None. So our calls are given neither: they
  serialize and parse messages themselves.
- `ClientCallDetails.method` is bytes for an interceptor, though its type says text.
- A stream that nobody holds or reads any more goes on. So ours cancel themselves when they
  are collected.
- `wait_for_connection()` on a call that has ended raises the error that ended it, also for
  streams.
- A call reads its metadata once, as pairs: `IteratedMetadata` is no more than that, and costs a third of
  what it costs to have grpc.aio make a `Metadata` of a list.
- If a stream's write fails because the peer's status is arriving, the call has two statuses, one after
  the other: the peer's, and an INTERNAL that grpc.aio makes up. Its callbacks may be called for the first
  one only. So the made-up one is nobody's end (`made_up`), and what is known at the end is kept.
- If the end of a stream's requests meets a status that is arriving, `done_writing` raises what no `write`
  would (`EndedBefore`), and the call ends with that status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from grpc.aio import InternalError, Metadata

from pymicro.base.printable import excerpt

__all__ = [
    "ALREADY_FINISHED",
    "HALF_CLOSED",
    "LOCALLY_CANCELLED",
    "CallerGone",
    "EndedBefore",
    "IteratedMetadata",
    "awaited_by_grpc",
    "cancelled_here",
    "grpc_handler",
    "is_accept_loop",
    "let_events_arrive",
    "made_up",
    "metadata_plugins",
    "method_handlers",
    "now",
    "servicer_of",
    "sure_end",
    "to_its_end",
]

T = TypeVar("T")

# A served call's `write` and `abort` raise this when the caller has gone: it cancelled the call,
# or its deadline passed. grpc cancels the handler's task a moment later.
CallerGone = InternalError

# A call's `done_writing` raises this when the call has ended, and grpc.aio has not read its status yet.
EndedBefore = InternalError

# grpc.aio's own texts, for calls of ours that behave like its calls. The first is the details of a
# call that this side cancelled; the others are in the InvalidStateError of a write.
LOCALLY_CANCELLED = "Locally cancelled by application!"
ALREADY_FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'


class IteratedMetadata(Metadata):
    """Metadata for a call of grpc.aio's, and for nobody else: pairs that are read once.

    Args:
        pairs: They were checked.
    """

    def __init__(self, pairs: Sequence[tuple[str, str | bytes]]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __bool__(self) -> bool:
        return bool(self._pairs)


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a done call's `code()`, `details()`, `trailing_metadata()` or `debug_error_string()`.

    In a done callback these do not suspend, whatever the outcome, so one step of the
    coroutine gives the result. A Task for it would cost more than the rest of the
    callback.

    Raises:
        RuntimeError: The coroutine suspended, so the call is not done.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError(f"{excerpt(coroutine)} suspended although its call is done")


def cancelled_here(call: Any) -> bool:
    """Whether this side cancelled a done call with the status CANCELLED.

    grpc.aio makes that status up itself and leaves the debug string out; grpc-core writes
    one with every status that it receives from the peer or makes itself.
    """
    return now(call.debug_error_string()) is None


def made_up(call: Any) -> bool:
    """Whether the status INTERNAL of a done call is grpc.aio's own, for a batch that core refused.

    A write fails so while the peer's status is arriving. If it fails first, the peer's status replaces
    this one a moment later; if it fails last, this one replaces the peer's.
    """
    return str(now(call.debug_error_string()) or "").startswith('Failed "execute_batch"')


def awaited_by_grpc(task: asyncio.Task[Any]) -> bool:
    """Whether the caller of the call served in this task has gone, as grpc.aio has been told.

    grpc.aio's own task for the call first waits for that news, then cancels this task, and from then on
    awaits it, before this task runs again. So one that is cancelled and not awaited was cancelled
    by somebody else. asyncio offers the waiters of a task under a private name only.
    """
    callbacks = getattr(task, "_callbacks", task)
    if callbacks is task:
        return True  # nothing is known: grpc is right to end it
    waiters = (getattr(callback, "__self__", None) for callback, _ in callbacks or ())
    return any(isinstance(one, asyncio.Task) and _is_call(one) for one in waiters)


def _is_call(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "").endswith("_schedule_rpc_coro")


def is_accept_loop(task: asyncio.Task[Any]) -> bool:
    """Whether the task is the one in which a started `grpc.aio.Server` accepts calls.

    `Server.start()` creates it, and only its name distinguishes it from other tasks. If it
    breaks, grpc only logs that, and `wait_for_termination` does not return while a call is
    open. One request whose path is not UTF-8 breaks it.
    """
    return getattr(task.get_coro(), "__qualname__", "").endswith("_server_main_loop")


_MAKERS: dict[str, Callable[..., Any]] = {
    shape: getattr(grpc, f"{shape}_rpc_method_handler")
    for shape in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
}


def grpc_handler(
    shape: str, behaviour: Any, deserializer: Any = None, serializer: Any = None
) -> grpc.RpcMethodHandler[Any, Any]:
    """One of grpc's method handlers; without serializers, in bytes.

    Args:
        shape: As grpc's attributes are called: `unary_unary`.
    """
    made: grpc.RpcMethodHandler[Any, Any] = _MAKERS[shape](behaviour, deserializer, serializer)
    return made


def method_handlers(generic: Any) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]] | None:
    """The methods in what `grpc.method_handlers_generic_handler` made; None for a more dynamic handler.

    That object keeps them by path under a private name and offers no other way to list them.
    """
    by_path = getattr(generic, "_method_handlers", None)
    if not isinstance(by_path, dict) or not hasattr(generic, "service_name"):
        return None
    return {path.rpartition("/")[2]: given for path, given in by_path.items()}


def metadata_plugins(credentials: grpc.CallCredentials) -> tuple[Callable[..., None], ...] | None:
    """What call credentials ask for each call's metadata; None for a kind that grpc-core alone knows.

    grpcio keeps it under private names. Each is called as `plugin(service_url, method_name, callback)`, and
    calls `callback(metadata, code, details)`, from any thread; the code is a number.
    """
    return _plugins_in(getattr(credentials, "_credentials", None))


def _plugins_in(core: Any) -> tuple[Callable[..., None], ...] | None:
    parts = getattr(core, "_call_credentialses", None)
    if parts is None:
        plugin = getattr(core, "_metadata_plugin", None)
        return None if plugin is None else (plugin,)
    found: list[Callable[..., None]] = []
    for part in parts:
        inside = _plugins_in(part)
        if inside is None:
            return None
        found += inside
    return tuple(found)


def servicer_of(given: Any) -> object:
    """The object whose method one of grpc's method handlers calls; a function that is no method, itself."""
    for shape in _MAKERS:
        behaviour = getattr(given, shape, None)
        if behaviour is not None:
            return getattr(behaviour, "__self__", behaviour)
    return given


async def sure_end(read: Callable[[], Awaitable[Any]]) -> None:
    """Let the end that a served call's `read` told be a sure one: a broken stream is cancelled meanwhile.

    grpc.aio tells a handler that reads a broken stream of requests that the stream has ended, and
    cancels the handler's task right after. Of calls cancelled in mid-stream nearly all looked ended
    first, and the handler would have taken half an upload for the whole. But core's events come in
    their order: it knows of the break before it tells of the end, so what it is asked after the end
    it answers after the cancellation. To read once more asks it, and changes nothing. Of 64,000 calls
    that were cancelled around their last read none looked ended after it, on either event loop, idle
    and with three busy processes on two cores; nor of 2,000 that a deadline or a size limit ended.
    (A pause of 1 ms let 1 or 2 of 1,600 through.)
    """
    await read()


async def to_its_end(batch: Awaitable[T]) -> T:
    """Await a batch of grpc-core's that does not wait for the peer; it ends also if this task is cancelled.

    grpc.aio notes that the initial metadata have been sent when it has been awaited. Otherwise it sends them
    again with the status, which grpc-core refuses, and the caller would wait for its deadline.
    """
    task = asyncio.ensure_future(batch)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
    return task.result()


# After a failed write, the cancellation that caused it is on its way; before a server stops, so may be
# a call that came while the loop was blocked. The loop needs a moment to poll such events.
_PAUSE = 0.001
# A pause that took this long shows that the machine is busy, and may have delayed grpc-core's
# thread as well.
_BUSY = 0.002
_LONG_PAUSE = 0.01


async def let_events_arrive() -> None:
    """Pause until the loop has polled the events that grpc-core has seen already."""
    started = time.monotonic()
    await asyncio.sleep(_PAUSE)
    if time.monotonic() - started > _BUSY:
        await asyncio.sleep(_LONG_PAUSE)
