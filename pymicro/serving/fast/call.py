"""One call that comes in over transport `fast`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError, BaseError, UsageError

from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.rpc.fast.stream import ENCODINGS, CallStream
from pymicro.rpc.grpcio import CallerGone
from pymicro.rpc.wire.metadata import Pair
from pymicro.rpc.wire.status import code_of
from pymicro.serving.fast.forms import Details, is_grpc, names_in, sound, status_of
from pymicro.serving.fast.peer import PeerFacts, facts_of
from pymicro.serving.transport import Metadatum, ServedMethod
from pymicro_fast.wire import TooLarge, pairs_of, read_pairs

if TYPE_CHECKING:
    from pymicro.base.deadlines import Watch
    from pymicro.serving.fast.session import ServingSession

__all__ = ["CANCELLED_ALL", "FastServedCall"]

log = logger("pymicro.server")

_OK = grpc.StatusCode.OK
_INTERNAL = grpc.StatusCode.INTERNAL
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED

# `Stream.error`.
_OPEN = -1
# RFC 9113, section 7.
_REFUSED_STREAM = 7
_CANCEL = 8

# grpc-core's words for calls that a server's stop ends.
CANCELLED_ALL = "Cancelling all calls"

# Seconds after its deadline in which a caller must have read its responses and its status.
_LEFT_UNREAD = 10.0
# Seconds; nobody watches for what is later.
_LONGEST = 365 * 86_400.0

# Reads and writes in a row that need not wait, before others get a turn of the event loop.
_TURN = 128

_FINE = [(b"grpc-status", b"0")]


class FastServedCall(CallStream):
    """See `ServedCall`. The engine makes one for each stream that a peer opens, without `__init__`.

    It lives through these states: its headers are on their way; its method is known, and a unary
    one waits for its request; its method runs; the method has ended, and what it sent is on its way.
    The stream may close in each of them.
    """

    session: ServingSession

    _refused: bool = False
    _method: ServedMethod | None = None
    task: asyncio.Task[None] | None = None
    _begun: bool = False  # whether the task has made its first step
    deadline: float = math.inf  # of the loop's clock
    watched: Watch | None = None
    _overdue: bool = False
    _waiters: list[asyncio.Future[None]] | None = None
    unpacking: asyncio.Future[bytes] | None = None
    _packing: asyncio.Lock | None = None
    _callbacks: list[Callable[[Any], None]] | None = None
    _pairs: tuple[Pair, ...] = ()
    _gone: bool = False  # the caller
    _done: bool = False
    _aborted: AbortError | None = None
    _code: Any = None
    _details: str = ""
    _trailing: tuple[Pair, ...] = ()
    _initial_sent: bool = False
    _compression: grpc.Compression | None = None
    _encoding: bytes | None = None
    _plain: bool = False  # the next message
    _moves: int = 0  # reads and writes since it waited last

    # What the engine tells

    def changed(self) -> None:
        """See `Stream`."""
        if self.error != _OPEN:
            self._closed()
        elif self._method is None:
            # A complete block of headers; if the stream was reset in the same packet, nothing starts.
            if self.initial is not None and not self._refused:
                self._open()
        elif self.task is None:
            if not self._done:
                self._await_request()
        else:
            if self._waiters is not None:
                self.wake()
            if (self.excess or self.malformed) and not self.available:
                self._damaged()

    def loop(self) -> asyncio.AbstractEventLoop:
        """See `CallStream`."""
        return self.session.loop

    # Its beginning

    def _open(self) -> None:
        """Its headers are here: find its method."""
        kind = self.content_type
        if (
            self.method != b"POST"
            or self.oversized
            or (kind != b"application/grpc" and not is_grpc(kind))
            or self.timeout == -2
        ):
            self._misfit(kind)
            return
        try:
            self._pairs = tuple([Metadatum(*pair) for pair in read_pairs(self.initial or ())])
        except ValueError as exc:
            self._refuse(_INTERNAL, str(exc))
            return
        session = self.session
        path = self.path
        # A path that is no UTF-8 is no method's either, and answered as such.
        name = path.decode("utf-8", "backslashreplace") if path is not None else ""
        try:
            method = self._method = session.methods.find(Details(name, self._pairs))
        except Exception:
            log.exception("%s: no method could be found for it", shortened(name))
            self._refuse(_INTERNAL, "internal error")
            return
        timeout = self.timeout
        if timeout >= 0:
            now = session.loop.time()
            self.deadline = now + timeout
            if timeout < _LONGEST:
                session.deadlines.watch(self, now)
        if method.shape.request_streaming:
            self._start(None)
            if self.task is not None and (self.excess or self.malformed):
                self._damaged()
        else:
            self._await_request()

    def _misfit(self, kind: bytes | None) -> None:
        """Headers of no call: the answers that gRPC and HTTP have for them (PROTOCOL-HTTP2.md)."""
        self._refused = True
        if self.oversized:
            limit = self.session.max_header_bytes
            self._refuse(_EXHAUSTED, f"received metadata size exceeds the limit of {limit} bytes")
        elif self.method != b"POST":
            self.refuse([(b":status", b"405"), (b"allow", b"POST"), (b"content-length", b"0")])
        elif not is_grpc(kind):
            self.refuse([(b":status", b"415"), (b"content-length", b"0")])
        else:
            self._refuse(_INTERNAL, "grpc-timeout is malformed")

    def _refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End it before a method runs."""
        self._refused = self._done = True
        self.discard()
        self.finish(status_of(code, details))
        self._watch_no_more()

    def _await_request(self) -> None:
        """A call with one request starts when it has that: nothing runs for half an upload.

        It does not wait for the end of the stream: go-micro's client never tells it, if responses stream.
        """
        if self.excess or self.malformed:
            self._damaged()
        elif self.unpacking is None and (self.available or self.ended):
            try:
                request = self.take()
            except (ValueError, LookupError) as exc:
                self._refuse(*self._unreadable(exc))
                return
            if request is None or self.available or self.partial or self.excess or self.malformed:
                # statuscodes.md: "Request cardinality violation".
                path = (self.path or b"").decode("utf-8", "replace")
                found = "none came" if request is None else "more came"
                self._refuse(_UNIMPLEMENTED, f"{path} takes one request, and {found}")
            elif self.unpacking is not None:
                self.unpacking.add_done_callback(self._unpacked)
            else:
                self._start(request)

    def _unpacked(self, made: asyncio.Future[bytes]) -> None:
        """The one request is unpacked; its caller may have gone meanwhile."""
        error = made.exception()
        if self._done or self.error != _OPEN:
            return
        if error is None:
            self.unpacking = None
            self._start(made.result())
        elif isinstance(error, ValueError):
            self._refuse(*self._unreadable(error))
        else:
            log.error("a request could not be decompressed", exc_info=error)
            self._refuse(_INTERNAL, "internal error")

    def _start(self, request: bytes | None) -> None:
        session = self.session
        running = session.running
        if len(running) >= session.most_running:
            # Streams that were reset, but whose handlers still run, count: who opens and resets
            # streams in a loop gets no more work done than who waits. No handler has seen this one.
            self._refused = self._done = True
            self.reset(_REFUSED_STREAM)
            self._watch_no_more()
            return
        running.add(self)
        # Where that is possible, the method runs up to its first wait here and now: what does not wait is
        # answered in the turn of the loop in which it came.
        session.start(self, self._serve(request))

    async def _serve(self, request: bytes | None) -> None:
        self._begun = True
        if self.task is None:
            self.task = asyncio.current_task()
        method = self._method
        assert method is not None
        try:
            if not self.room():
                # The connection is full of what its peer does not read: no method makes more of it.
                await self._until_room()
            response = await method.run(request, self)
            if not self._done:
                if response is not None and self._compresses() and self._succeeds() and self._fits(response):
                    await self._send(response)
                    response = None
                self._finish(method, response)
        except BaseException as exc:
            self._broken(exc)
            if isinstance(exc, SystemExit | KeyboardInterrupt):
                raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Its method has ended."""
        task, self.task = self.task, None
        if self._waiters is not None:
            self.wake()  # tasks that the method has left behind
        aborted = self._aborted
        if aborted is not None:  # it, and what led to it, hold frames of the method, and those hold this call
            aborted.__traceback__ = aborted.__context__ = None
        session = self.session
        session.running.discard(self)
        if self._gone and task is not None:
            session.cancelled.discard(task)
        callbacks = self._callbacks
        if callbacks is not None:
            self._callbacks = None
            for callback in callbacks:
                try:
                    callback(self)
                except Exception:
                    log.exception("a done callback of a call failed")

    def _succeeds(self) -> bool:
        """Whether its method has set no other status than OK."""
        return self._code is None or code_of(self._code) is _OK

    def _finish(self, method: ServedMethod, response: bytes | None) -> None:
        code = self._code
        self._done = True
        if self._gone:
            return
        if code is None and not self._details and not self._trailing:
            trailers = _FINE
        else:
            code = code_of(_OK if code is None else code)
            trailers = status_of(code, self._details, self._trailing)
            if code is not _OK:
                self.finish(trailers)
                return
        if response is None:  # of a stream, or it went out compressed
            self.finish(trailers)
        elif self._fits(response):
            self.answer(response, trailers)
        else:
            self.finish(status_of(*self._too_large(response)))

    def _broken(self, exc: BaseException) -> None:
        """Its method has raised; if that is all, the caller gets a status all the same."""
        expected = isinstance(exc, BaseError | asyncio.CancelledError)
        if not expected:
            log.error("a call's method raised what it should not", exc_info=exc)
        if not self._done and not self._gone:
            self._done = True
            if isinstance(exc, asyncio.CancelledError):
                self.finish(status_of(grpc.StatusCode.UNAVAILABLE, CANCELLED_ALL))
            else:
                self.finish(status_of(_INTERNAL, "internal error"))

    # Its end, if the caller does not wait for the method's

    def _closed(self) -> None:
        """The stream has closed: everything was sent, or its caller has gone."""
        self._watch_no_more()
        if not self._done and not self._gone:
            self._go()

    def _go(self) -> None:
        """Nobody waits for the method any more."""
        self._gone = True
        self._watch_no_more()
        task = self.task
        if task is None:
            self._done = True
            return
        self.session.cancelled.add(task)
        task.cancel()
        if self._waiters is not None:
            self.wake()
        if not self._begun:
            self._leave()  # it never will begin

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End the call for its caller, after what is queued, and cancel its method."""
        if self.error == _OPEN and not self._done:
            self.discard()
            self.finish(status_of(code, details))
        if not self._done and not self._gone:
            self._go()

    def late(self) -> None:
        """See `Watched`."""
        if self._overdue:
            self.watched = None
            self.reset(_CANCEL)
            return
        self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self.watched = None
        if self.error == _OPEN:
            # Not reset at once: the caller would take that for a cancellation by the handler. But who reads
            # nothing after its deadline must not make the server keep what it did not read.
            self._overdue = True
            now = self.session.loop.time()
            self.deadline = now + _LEFT_UNREAD
            self.session.deadlines.watch(self, now)

    def _watch_no_more(self) -> None:
        watched = self.watched
        if watched is not None:
            self.watched = None
            watched.discard(self)

    def _damaged(self) -> None:
        """What has come is no message, or one that is too large."""
        if self.excess:
            limit = self.session.max_message
            text = f"SERVER: Received message larger than max ({self.excess} vs. {limit})"
            self.fail(_EXHAUSTED, text)
        else:
            self.fail(_INTERNAL, "what came is no message of gRPC")

    def _unreadable(self, exc: Exception) -> tuple[grpc.StatusCode, str]:
        if isinstance(exc, TooLarge):
            limit = self.session.max_message
            return _EXHAUSTED, f"SERVER: Received message larger than max (decompressed, vs. {limit})"
        if isinstance(exc, LookupError):
            if self.encoding in (None, b"identity"):
                return _INTERNAL, "a message says that it is compressed, and the call's headers say no"
            # compression.md; `grpc-accept-encoding` goes with every answer.
            name = (self.encoding or b"").decode("latin-1")[:40]
            return _UNIMPLEMENTED, f"messages compressed as {excerpt(name)} are not read here"
        return _INTERNAL, f"a request cannot be read: {exc}"

    # Waiting

    async def _left_behind(self) -> CallerGone:
        """What to raise for who uses the call though its caller has gone."""
        await asyncio.sleep(0)  # the method's own task has been cancelled, and learns it here
        return CallerGone("the caller has gone")

    # What the caller sent

    def invocation_metadata(self) -> tuple[Pair, ...]:
        """See `ServedCall`."""
        return self._pairs

    def peer(self) -> str:
        """See `ServedCall`."""
        return self.session.peer

    def _peer_facts(self) -> PeerFacts:
        """What is known of the peer, found out once for a connection, if anybody asks."""
        session = self.session
        if session.peer_facts is None:
            session.peer_facts = facts_of(session.encryption)
        return session.peer_facts

    def peer_identities(self) -> Iterable[bytes] | None:
        """See `ServedCall`."""
        return self._peer_facts().identities

    def peer_identity_key(self) -> str | None:
        """See `ServedCall`."""
        return self._peer_facts().key

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """See `ServedCall`."""
        return self._peer_facts().context

    def time_remaining(self) -> float | None:
        """See `ServedCall`."""
        deadline = self.deadline
        if self._overdue:
            return 0.0
        return None if deadline == math.inf else max(deadline - time.monotonic(), 0.0)

    async def read(self) -> Any:
        """See `ServedCall`."""
        while not self._gone:
            if self._done:
                self._usable()  # which raises
            if self.unpacking is not None:
                await self.waiter()
            elif self.available:
                return await self._taken()
            if self.excess or self.malformed:
                self._damaged()
            elif self.ended:
                if not self.partial:
                    return EOF
                text = "the stream of requests broke off in the middle of a message"
                self.fail(_INTERNAL, text)
            else:
                self._moves = 0
                await self.waiter()
        raise await self._left_behind()

    async def _taken(self) -> Any:
        try:
            message = self.take()
            unpacking = self.unpacking
            if unpacking is not None:
                try:
                    message = await asyncio.shield(unpacking)
                finally:
                    self.unpacking = None
                    self.wake()
        except (ValueError, LookupError) as exc:
            self.fail(*self._unreadable(exc))
            raise await self._left_behind() from None
        self._moves += 1
        if self._moves >= _TURN:
            self._moves = 0
            await asyncio.sleep(0)
        return message

    # What the caller gets

    def _usable(self) -> None:
        if self._aborted is not None:
            raise self._aborted
        if self._done:
            raise UsageError("RPC already finished.")
        if self._gone:
            raise CallerGone("the caller has gone")

    async def send_initial_metadata(self, initial_metadata: tuple[Pair, ...]) -> None:
        """See `ServedCall`."""
        self._usable()
        if self._initial_sent:
            raise UsageError("Send initial metadata failed: already sent")
        self._respond(pairs_of(sound(initial_metadata)))

    def _respond(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Send the headers, with the encoding of what follows."""
        self._initial_sent = True
        wanted = self._compression if self._compression is not None else self.session.compression
        encoding = ENCODINGS[wanted]
        if encoding is not None and encoding in names_in(self.accept_encoding):
            self._encoding = encoding
            pairs.append((b"grpc-encoding", encoding))
        self.respond(pairs)

    def _fits(self, message: bytes | None) -> bool:
        limit = self.session.max_sent
        return limit < 0 or message is None or len(message) <= limit

    def _too_large(self, message: bytes | None) -> tuple[grpc.StatusCode, str]:
        sizes = f"{len(message or b'')} vs. {self.session.max_sent}"
        return _EXHAUSTED, f"SERVER: Sent message larger than max ({sizes})"

    def _compresses(self) -> bool:
        """Whether responses may have to be compressed: headers that say so go first."""
        return self._compression is not None or self.session.compression is not None

    async def _send(self, message: bytes) -> None:
        """Queue a message; compressed, if that was asked for and makes it smaller."""
        if not self._initial_sent:
            self._respond([])
        plain, self._plain = self._plain, False
        encoding = self._encoding
        if encoding is None:
            self.send(message)
            return
        async with self.packing():
            packed = message if plain else await self.pack(encoding, message)
            if self._gone or self._done:
                raise await self._left_behind()
            if len(packed) < len(message):
                self.send(packed, True)
            else:
                self.send(message)

    async def write(self, message: bytes) -> None:
        """See `ServedCall`."""
        self._usable()
        if not self._fits(message):
            self.fail(*self._too_large(message))
            raise await self._left_behind()
        if self._compresses():
            await self._send(message)
        else:
            if not self._initial_sent:
                self._respond([])
            self.send(message)
        if self.room():
            self._moves += 1
            if self._moves >= _TURN:
                self._moves = 0
                await asyncio.sleep(0)
            return
        await self._until_room()

    async def _until_room(self) -> None:
        self._moves = 0
        while not self.room() and not self._gone:
            self.wants_room = True
            await self.waiter()
        self.wants_room = False
        if self._gone:
            raise await self._left_behind()

    async def abort(self, code: Any, details: str = "", trailing_metadata: tuple[Pair, ...] = ()) -> NoReturn:
        """See `ServedCall`."""
        if self._aborted is not None:
            raise UsageError("Abort already called!")
        if self._done:
            raise UsageError("RPC already finished.")
        trailing = sound(trailing_metadata)
        self._aborted = AbortError("Locally aborted.")
        self._done = True
        self._code, self._details = code, details or self._details
        self._trailing = trailing or self._trailing
        if self._gone:
            raise CallerGone("the caller has gone")
        self.finish(status_of(code_of(code), self._details, self._trailing))
        raise self._aborted

    def set_code(self, code: Any) -> None:
        """See `ServedCall`."""
        self._code = code

    def set_details(self, details: str) -> None:
        """See `ServedCall`."""
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """See `ServedCall`."""
        self._trailing = sound(trailing_metadata)

    def code(self) -> Any:
        """See `ServedCall`."""
        return self._code

    def details(self) -> str:
        """See `ServedCall`."""
        return self._details

    def trailing_metadata(self) -> tuple[Pair, ...]:
        """See `ServedCall`."""
        return self._trailing

    def set_compression(self, compression: grpc.Compression) -> None:
        """See `ServedCall`."""
        if self._initial_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        self._compression = compression

    def disable_next_message_compression(self) -> None:
        """See `ServedCall`."""
        self._plain = True

    # Its end

    def done(self) -> bool:
        """See `ServedCall`."""
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See `ServedCall`."""
        if self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def __repr__(self) -> str:
        path = (self.path or b"").decode("utf-8", "backslashreplace")
        return f"<FastServedCall {path} from {self.session.peer}>"
