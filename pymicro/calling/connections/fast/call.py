"""One call on a connection of transport `fast`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc.aio import AioRpcError, Metadata

from pymicro.base.printable import excerpt
from pymicro.calling.connections.fast.ends import end_of, why_no_grpc
from pymicro.calling.connections.transport import Status
from pymicro.rpc.fast.reserved import NOT_METADATA
from pymicro.rpc.fast.stream import ENCODINGS, CallStream
from pymicro.rpc.grpcio import ALREADY_FINISHED, HALF_CLOSED, LOCALLY_CANCELLED
from pymicro_fast import Session
from pymicro_fast.packing import packed
from pymicro_fast.wire import TooLarge, pairs_of, read_pairs

if TYPE_CHECKING:
    from pymicro.base.deadlines import Deadlines
    from pymicro.calling.connections.fast.arguments import Arguments
    from pymicro.rpc.wire.metadata import Pair

__all__ = ["FastCall", "Home"]

_OK = grpc.StatusCode.OK
_CANCELLED = grpc.StatusCode.CANCELLED
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
_INTERNAL = grpc.StatusCode.INTERNAL
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# Of requests; these go along already, or are the network's to say (gRFC A6).
_RESERVED = NOT_METADATA | {"grpc-previous-rpc-attempts", "user-agent"}

_NEVER = float("inf")
# `Stream.error`.
_OPEN = -1
_LOST = -2
_REFUSED_STREAM = 7
_CANCEL = 8

# Bytes of a stream's requests that are kept for a second connection, if the first one takes no more calls.
_KEPT = 65536
# How often one call goes to another connection because a peer refused its stream.
_REFUSALS = 1


class Home(Protocol):
    """What a call needs of its connection.

    Attributes:
        loop: The event loop.
        arguments: The connection's settings.
        reason: Why its last session ended.
        closing: Whether this side closes it.
        deadlines: What watches its calls.
    """

    loop: asyncio.AbstractEventLoop
    deadlines: Deadlines
    arguments: Arguments
    reason: Any
    closing: bool

    def wait(self, call: FastCall) -> None:
        """Start the call on a session with room, as soon as there is one."""
        ...

    def forget(self, call: FastCall) -> None:
        """The call waits no more."""
        ...


class FastCall(CallStream):
    """See `NetworkCall`. It is its own stream; a second connection gets it renewed.

    Args:
        connection: Where it was started.
        path: The method's.
        streams: Whether there are many responses.
        request: The one request; None for a stream of them.
        timeout: Seconds to its deadline; None for none.
        metadata: Pairs that were checked, or None.
        compression: Of the requests.

    Attributes:
        code: The code; None before the end.
        ended_here: Whether this side ended it, by cancelling it.
        deadline: See `Watched`; infinite without one.
        watched: See `Watched`.
    """

    __slots__ = (
        "_callbacks",
        "_connection",
        "_details",
        "_done_writing",
        "_encoding",
        "_kept",
        "_made_here",
        "_metadata",
        "_packed",
        "_packing",
        "_path",
        "_refusals",
        "_request",
        "_response",
        "_streams",
        "_waiters",
        "code",
        "deadline",
        "ended_here",
        "unpacking",
        "watched",
    )

    def __init__(
        self,
        connection: Home,
        path: bytes,
        streams: bool,
        request: bytes | None,
        timeout: float | None,
        metadata: Any,
        compression: grpc.Compression | None,
    ) -> None:
        self._connection = connection
        self._path = path
        self._streams = streams
        self._request = request
        self._metadata = metadata
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._waiters = None
        self._packing = None
        self.unpacking = None
        self._packed: bytes | asyncio.Future[bytes] | None = None
        self._response: bytes | None = None
        self._details = ""
        self._refusals = 0
        self._done_writing = False
        self._kept: list[tuple[bytes, bool]] | None = None if request is not None else []
        self.code: grpc.StatusCode | None = None
        self.ended_here = False
        self._made_here = False
        self.deadline = _NEVER
        self.watched: Any = None
        if timeout is not None:
            now = connection.loop.time()
            self.deadline = now + timeout
            connection.deadlines.watch(self, now)
        if compression is None:
            compression = connection.arguments.compression
        self._encoding = ENCODINGS[compression]

    def loop(self) -> asyncio.AbstractEventLoop:
        """See `CallStream`."""
        return self._connection.loop

    # Its beginning

    def add_metadata(self, pairs: Iterable[Pair]) -> None:
        """Send these along; before it begins."""
        self._metadata = (*(self._metadata or ()), *pairs)

    def begin(self, session: Session) -> None:
        """Go out on this session."""
        connection = self._connection
        request, encoding = self._request, self._encoding
        if request is not None and encoding is not None and not self._is_packed(request, encoding):
            return
        timeout = -1.0
        if self.watched is not None:
            timeout = max(0.0, self.deadline - connection.loop.time())
        pairs = None
        if self._metadata:
            # A caller's own `te` ends the call, and grpc-core remembers it for others of the connection.
            pairs = pairs_of([pair for pair in self._metadata if pair[0] not in _RESERVED])
        if encoding is not None:
            pairs = [(b"grpc-encoding", encoding), *(pairs or ())]
        try:
            if request is not None:
                limit = connection.arguments.max_send
                if 0 <= limit < len(request):
                    self._too_large(request)
                elif encoding is None:
                    session.request(self, self._path, timeout, pairs, request)
                else:
                    assert isinstance(self._packed, bytes)
                    session.request(self, self._path, timeout, pairs, self._packed, True)
                return
            session.request(self, self._path, timeout, pairs)
        except ConnectionError as exc:
            self.fail(grpc.StatusCode.UNAVAILABLE, str(exc))
            return
        for message, compressed in self._kept or ():
            self.send(message, compressed)
        if self._done_writing:
            self.end()
        self.wake()

    def _is_packed(self, request: bytes, encoding: bytes) -> bool:
        """Whether the one request is compressed; if not yet, the call goes on to wait when it is."""
        if self._packed is None and not 0 <= self._connection.arguments.max_send < len(request):
            made = self._packed = packed(self._connection.loop, encoding, request)
            if not isinstance(made, bytes):
                made.add_done_callback(self._now_packed)
                return False
        return True

    def _now_packed(self, made: asyncio.Future[bytes]) -> None:
        error = made.exception()
        if self.code is not None:
            return
        if error is not None:
            self.fail(_INTERNAL, f"the request could not be compressed: {error}")
        else:
            self._packed = made.result()
            self._connection.wait(self)

    def _too_large(self, request: bytes) -> None:
        limit = self._connection.arguments.max_send
        self.fail(_EXHAUSTED, f"CLIENT: Sent message larger than max ({len(request)} vs. {limit})")

    def _again(self) -> bool:
        """Whether it goes on on another connection: no server has heard of it, or one has refused it.

        That is grpc's transparent retry (gRFC A6): no handler can have run.
        """
        if self.error == _REFUSED_STREAM and not self.ended:
            if self._refusals == _REFUSALS:
                return False
            self._refusals += 1
        elif self.error != _LOST or self.sent:
            return False
        if self._request is None and self._kept is None:
            return False
        self.renew()
        self._connection.wait(self)
        return True

    # What the engine tells

    def changed(self) -> None:
        if self.code is not None:
            return
        error = self.error
        if self.excess or self.malformed:
            self._damaged()
        elif error == _OPEN and not self.ended:
            if self.http_status not in (0, 200) and self.initial is not None:
                self._damaged()  # what follows is no message
                return
            if self._kept is not None and self.initial is not None:
                self._kept = None  # a handler runs: there is no other connection for this call
            if self._waiters is not None:
                self.wake()
        elif error not in (_OPEN, 0) and not self.ended and self._again():
            pass
        elif self._streams and (self.available or self.unpacking is not None) and error >= _OPEN:
            # It has ended when its reader has all that came, or with its deadline.
            self.wake()
        else:
            self._settle()

    def _damaged(self) -> None:
        strange = why_no_grpc(self)
        if strange is not None:
            self.fail(*strange)
        elif self.excess:
            limit = self.session.max_message
            self.fail(_EXHAUSTED, f"CLIENT: Received message larger than max ({self.excess} vs. {limit})")
        else:
            self.fail(_INTERNAL, "the peer sent what is no message of gRPC")

    def _settle(self) -> None:
        """The peer has ended it, or its stream is closed: how?"""
        if self.code is not None or (self.unpacking is not None and not self._streams):
            return
        code, details = end_of(self, self._connection.reason if self.error == _LOST else None)
        if code is _OK:
            if self.partial:
                code, details = _INTERNAL, "the peer broke off in the middle of a message"
            elif not self._streams:
                try:
                    self._response = self.take()
                except (ValueError, LookupError) as exc:
                    code, details = self._unreadable(exc)
                if self.available or self.partial or self.excess or self.malformed:
                    code, details = _INTERNAL, "the peer sent more than one response"
                elif self.unpacking is not None:
                    self.unpacking.add_done_callback(self._unpacked)
                    return
        elif self.error == _LOST and self._connection.closing:
            self.cancel()
            return
        self._finish(code, details)

    def _unpacked(self, made: asyncio.Future[bytes]) -> None:
        """The only response is unpacked; unless the call has ended meanwhile, it ends now."""
        self.unpacking = None
        error = made.exception()
        if self.code is not None:
            return
        if error is None:
            self._response = made.result()
            self._finish(_OK, "")
        elif isinstance(error, ValueError):
            self._finish(*self._unreadable(error))
        else:
            self._finish(_INTERNAL, f"the response could not be decompressed: {error}")

    def _unreadable(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        if isinstance(error, TooLarge):
            limit = self.session.max_message
            return _EXHAUSTED, f"CLIENT: Received message larger than max (decompressed, vs. {limit})"
        if isinstance(error, LookupError):
            name = (self.encoding or b"").decode("latin-1")
            return _INTERNAL, f"a response is compressed in a way that is not known here: {excerpt(name)}"
        return _INTERNAL, f"a response cannot be read: {error}"

    def late(self) -> None:
        """See `Watched`."""
        self.fail(_DEADLINE_EXCEEDED, "Deadline Exceeded")

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End it with a status that this side makes."""
        if self.code is None:
            if self.session is None:
                self._connection.forget(self)
            self.reset(_CANCEL)
            self._made_here = True
            self._finish(code, details)

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self._details = details
        if self.watched is not None:
            self.watched.discard(self)
        if self.error == _OPEN:
            # The peer has ended its side before this one: it is read no more.
            self.reset(_CANCEL)
        self._request = self._kept = self._packed = None
        if self._waiters is not None:
            self.wake()
        callbacks = self._callbacks
        if callbacks is not None:
            self._callbacks = None
            for callback in callbacks:
                callback(self)

    # What calls ask

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See `NetworkCall`."""
        if self.code is not None:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def cancel(self) -> bool:
        """See `NetworkCall`."""
        if self.code is not None:
            return False
        self.ended_here = self._made_here = True
        if self.session is None:
            self._connection.forget(self)
        self.reset(_CANCEL)
        self._finish(_CANCELLED, LOCALLY_CANCELLED)
        return True

    def status(self) -> Status:
        """All that is known of its end."""
        assert self.code is not None
        initial, trailing = self.initial, self.trailing
        if trailing is None and self.ended:  # one block was all, and then it is the trailers
            initial, trailing = None, initial
        if self._made_here:  # the peer's trailers are of its own status, which nobody is told
            trailing = None
        debug = None if self.ended_here else f"{self.code.name}: {self._details} (transport fast)"
        return Status(self.code, self._details, _metadata(initial), _metadata(trailing), debug)

    def _raise(self) -> None:
        code = self.code
        if self.ended_here:
            raise asyncio.CancelledError
        if code is not _OK and code is not None:
            raise AioRpcError(code, Metadata(), Metadata(), self._details)

    async def _next(self) -> None:
        """Return after the next change; cancelling this cancels the call."""
        try:
            await self.waiter()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def __await__(self) -> Generator[Any, None, bytes | None]:
        while self.code is None:
            try:
                yield from self.waiter()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.code is not _OK or self.ended_here:
            self._raise()
        return self._response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self.available and self.unpacking is None:
                try:
                    message = self.take()
                    if self.unpacking is not None:
                        message = await self._read_packed(self.unpacking)
                except (ValueError, LookupError) as exc:
                    self.fail(*self._unreadable(exc))
                    self._raise()
                if not self.available and self.code is None:
                    if self.excess or self.malformed:
                        self._connection.loop.call_soon(self._damaged)
                    elif self.ended or self.error != _OPEN:
                        # Whoever reads has the last response before anybody hears of the end.
                        self._connection.loop.call_soon(self._settle)
                return message  # type: ignore[no-any-return]
            if self.code is not None:
                self._raise()
                raise StopAsyncIteration
            await self._next()

    async def _read_packed(self, unpacking: asyncio.Future[bytes]) -> bytes:
        """The message that was taken, once it is unpacked; cancelling this cancels the call."""
        try:
            return await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self.unpacking = None
            self.wake()

    async def write(self, request: bytes) -> None:
        """See `NetworkCall`."""
        if self.code is not None:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if self._done_writing:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        if 0 <= self._connection.arguments.max_send < len(request):
            self._too_large(request)
            self._raise()
        if self._encoding is None:
            self._put(request, False)
        else:
            async with self.packing():
                try:
                    request = await self.pack(self._encoding, request)
                except asyncio.CancelledError:
                    self.cancel()
                    raise
                self._put(request, True)
        await self._until_room()

    async def _until_room(self) -> None:
        while self.code is None and not (self.session is not None and self.room()):
            self.wants_room = True
            await self._next()
        self.wants_room = False
        if self.code is not None:
            self._raise()

    def _put(self, message: bytes, compressed: bool) -> None:
        if self.code is not None:
            return
        kept = self._kept
        if kept is not None:
            kept.append((message, compressed))
            if self.session is not None and sum([len(one) for one, _ in kept]) > _KEPT:
                self._kept = None
        if self.session is not None:
            self.send(message, compressed)

    async def done_writing(self) -> None:
        """See `NetworkCall`."""
        if self._packing is not None:
            async with self._packing:  # after what is still compressed
                pass
        self._done_writing = True
        if self.session is not None and self.code is None:
            self.end()

    async def initial_metadata(self) -> Metadata:
        """See `NetworkCall`."""
        while self.initial is None and self.code is None:
            await self.waiter()  # cancelling this does not cancel the call, as in grpc.aio
        if self.trailing is None and self.ended:
            return Metadata()
        return _metadata(self.initial or ())

    async def wait_for_connection(self) -> None:
        """See `NetworkCall`."""
        while self.code is None and not self.sent:
            self.wants_sent = True
            await self._next()
        if self.code is not None:
            self._raise()


def _metadata(pairs: Any) -> Metadata:
    if not pairs:
        return Metadata()
    try:
        return Metadata(*read_pairs(pairs))
    except ValueError:
        return Metadata(*_readable(pairs))


def _readable(pairs: Any) -> Iterator[Pair]:
    """The metadata without a peer's values that are no base64: these are no reason to lose the others."""
    for pair in pairs:
        with contextlib.suppress(ValueError):
            yield from read_pairs([pair])
