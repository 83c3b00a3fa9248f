"""The engine's interface: HTTP/2 connections that carry gRPC, one in each `Session`, calls in `Stream`s.

Both are for subclasses in Python, which decide; the engine moves bytes. All of it runs in one event loop's
thread, and none of it waits.

**How news travels.** While bytes are read (and while they are written) the engine only notes what happens.
Then it tells, in this order: the session's own events (`settings_received`, `goaway_received`,
`pong_received`, `lost`), and `changed()` of each stream for which something is new, once for all that is.
So `changed` looks at the stream's state and asks what is due now: are the headers there, is a message
there, has the peer ended, is it closed. It may do anything: send, reset, start tasks, end the session. A
task that it starts runs in a later turn of the loop, when the stream may be closed already: look again.

**Writing.** Everything that is sent in one turn of the loop goes out in one write, in the next turn; at
once if the message that ends one side of the only open stream is sent; and behind all of them in the same
turn, if a client's streams were told of answers and send because of that. What a server's `changed` sends
of what has just come goes out in one write when all were told.

**Floods.** Frames that move nothing (windows, pings, settings, priorities, resets, empty data) are counted
against a credit that time and work bring back. Who has used it up gets GOAWAY with ENHANCE_YOUR_CALM, and the
connection is closed, with that as its `reason`.

**Memory.** A stream holds what has come and was not taken, at most its window (or one message); a message
becomes an object when it is taken. `room()` tells whether a stream should be given more to send.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

INTERFACE: Final[int]
"""Which interface this is; pymicro refuses another one than it was written for."""

NGHTTP2: Final[str]
"""The version of nghttp2 that is compiled in."""

Pair = tuple[bytes, bytes]

def error_name(code: int) -> str:
    """HTTP/2's name of an error code, `REFUSED_STREAM` for 7."""

class Buffers:
    """What the connections of one event loop read into and write from: one object for a loop, not more."""

    def __init__(self, size: int = 262144) -> None: ...

class Stream:
    """One stream, which is one call.

    A client makes one and gives it to `Session.request`. A server names its class to the session, which
    makes one for each request by `__new__`, without `__init__`: defaults belong on the class.

    Attributes:
        session: Where it lives; None before it was started.
        id: Its number; 0 before it was started.
        method, path, authority: Of a request.
        http_status: Of a response; 0 before it is there, -2 if it is malformed.
        content_type: None if none came; also of an error that is no gRPC.
        encoding, accept_encoding: `grpc-encoding` and `grpc-accept-encoding`.
        timeout: `grpc-timeout` of a request in seconds; -1.0 without one, -2.0 for one that is malformed.
        grpc_status: -1 without one, -2 for one that is no number.
        message: `grpc-message`, as it came (percent-encoded); None without one.
        initial: The first block of headers once it is complete, without those above; None before. A name
            is text; a value is text, or bytes as they came (base64) if the name ends in `-bin`.
        trailing: The last block; None before. An answer of one block alone has it in `initial`.
        oversized: A block was larger than `max_header_bytes`; what of it is above that was dropped.
        ended: The peer ended its side: no more messages come.
        excess: The length of a message that is larger than `max_message`, or 0. Nothing is received after it.
        malformed: A message's prefix was none. Nothing is received after it.
        error: -1 while it is open, an HTTP/2 error code once it is closed (0 after an ordinary end), -2 if
            the connection was lost.
        sent: Its first headers have been handed to the socket.
        half_closed: `end`, `finish` or `refuse` was called.
        queued: Bytes given to `send` that are not written yet.
        wants_room: Set it to be told by `changed` when half of the queue is gone.
        wants_sent: Set it to be told by `changed` when it becomes `sent`.
    """

    session: Session
    id: int
    method: bytes | None
    path: bytes | None
    authority: bytes | None
    http_status: int
    content_type: bytes | None
    encoding: bytes | None
    accept_encoding: bytes | None
    timeout: float
    grpc_status: int
    message: bytes | None
    initial: list[tuple[str, str | bytes]] | None
    trailing: list[tuple[str, str | bytes]] | None
    oversized: bool
    ended: bool
    excess: int
    malformed: bool
    error: int
    sent: bool
    half_closed: bool
    queued: int
    wants_room: bool
    wants_sent: bool

    def __init__(self) -> None: ...

    # For subclasses

    def changed(self) -> None:
        """Something is new: headers, a message, the end, the close, or room for more.

        What it raises resets the stream and is told to `Session.mishap`.
        """

    def inflate(self, data: bytes) -> Any:
        """A message that came compressed; what this returns or raises, `take` does."""

    # What has come

    @property
    def closed(self) -> bool:
        """Whether nothing more comes or goes; messages that were received can still be taken."""
    @property
    def available(self) -> bool:
        """Whether `take` has a message."""
    @property
    def partial(self) -> bool:
        """Whether only a part of a message has come: after `ended`, it broke off."""
    def take(self) -> Any:
        """The next message, in bytes; None if none is there. It gives the peer room to send more."""
    def discard(self) -> None:
        """Drop what has come and was not taken, and give the peer its room back."""

    # What is to go

    def send(self, message: bytes, compressed: bool = False) -> None:
        """Queue a message; a server's first one sends the headers, if `respond` has not.

        Nothing happens on a closed stream. Look at `room()` first: the queue has no limit of its own.

        Raises:
            RuntimeError: The side was ended before.
        """
    def room(self) -> bool:
        """Whether more should be queued: less than `high` waits here, and less than `most` in the session.

        A message counts for 64 bytes more than it has.

        In a session that is full, a stream with nothing queued has room if what it sends goes out at once: so
        those that nobody reads hold up none of the others. Who has asked in vain is told by `changed` when
        there is room, if the session was full; `wants_room` is for the stream's own queue.
        """
    def end(self) -> None:
        """A client's side ends after what is queued."""
    def respond(self, pairs: Sequence[Pair] | None) -> None:
        """A server's headers: status 200, the session's fixed ones and these.

        Raises:
            RuntimeError: They were sent before.
        """
    def finish(self, trailers: list[Pair]) -> None:
        """A server's end: these trailers (`grpc-status` among them) after what is queued.

        If nothing was sent before, one block has headers and trailers. If the client has not ended its
        side, it is told that it need not go on.
        """
    def answer(self, message: bytes, trailers: list[Pair]) -> None:
        """A server's only message and its end, as `send` and `finish`, but cheaper.

        Raises:
            RuntimeError: The side was ended before.
        """
    def refuse(self, pairs: list[Pair]) -> None:
        """A server's answer in plain HTTP, of these headers alone (`:status` among them)."""
    def reset(self, code: int = 8) -> None:
        """Close it now, for both sides; the default code is CANCEL. Nobody is told by `changed`."""
    def renew(self) -> None:
        """Make a client's closed stream a new one, which can be given to `Session.request` again.

        Raises:
            RuntimeError: It is open.
        """

class Session(asyncio.BufferedProtocol):
    """One connection: the protocol of an asyncio transport.

    In truth it is no `BufferedProtocol`: make a class of it as `class C(Session, asyncio.BufferedProtocol)`.

    Args:
        loop: The event loop.
        buffers: Those of the loop.
        accept: The class of a server's streams; None for a client.
        fixed: Headers of every request, or of every response: `content-type`, `user-agent` and the like.
        scheme, authority: Of a client's requests.
        max_message: The largest message that is received, as it comes; more ends its stream (`excess`).
        max_header_bytes: The largest block of headers that is received, counted as RFC 9113 does.
        window: The window of a new stream (bytes). It is doubled up to `max_window` for a stream whose
            reader keeps up.
        max_window: See `window`; all streams together get at most 4 times as much above their first window.
        connection_window: The connection's window. It is given back on receipt.
        max_streams: A server's limit of open streams; None for none.
        high: Bytes that a stream should queue.
        most: Bytes that all streams together should queue; see `room`.
        max_growing: Bytes that all messages larger than 16 KiB may have together, from when that much of one
            has come until it is taken. A stream whose message would exceed it waits until others were taken.

    Attributes:
        server: Whether `accept` was given.
        transport: asyncio's, once the connection is made.
        paused: The socket takes no more; what is sent waits here.
        reason: Why it ended or is about to: a text, or an exception; None while it is well.
        queued: Bytes that all streams have queued.
        grown: By how many bytes the windows of open streams have grown.
        wants_stream: Set it to be told by `stream_ended` when the next stream has ended.
        growing: What counts for `max_growing`.
        received: Bytes that have come.
        replied: Headers or messages went out since this was set to False.
    """

    server: bool
    transport: Any
    paused: bool
    reason: Any
    queued: int
    grown: int
    growing: int
    wants_stream: bool
    received: int
    replied: bool
    max_message: int
    max_header_bytes: int

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffers: Buffers,
        *,
        accept: type[Stream] | None = None,
        fixed: list[Pair],
        scheme: bytes = b"http",
        authority: bytes = b"",
        max_message: int = 4194304,
        max_header_bytes: int = 16384,
        window: int = 131072,
        max_window: int = 4194304,
        connection_window: int = 8388608,
        max_streams: int | None = None,
        high: int = 65536,
        most: int = 4194304,
        max_growing: int = 67108864,
    ) -> None: ...

    # For subclasses

    def stream_ended(self) -> None:
        """A stream has ended after `wants_stream` was set, which is unset by it."""
    def settings_received(self) -> None:
        """The peer's settings have come; its first ones say that it speaks HTTP/2."""
    def goaway_received(self, last_stream_id: int, error: int, text: bytes) -> None:
        """The peer takes no more streams. Those above `last_stream_id` are closed with REFUSED_STREAM (7)."""
    def pong_received(self, payload: bytes) -> None:
        """A ping was answered."""
    def pings_received(self, count: int) -> None:
        """So many pings have come since this was told last; they are answered already."""
    def lost(self, reason: Any) -> None:
        """The connection is gone, for the `reason`; its streams are told after this."""
    def mishap(self, error: Exception) -> None:
        """One of these methods, or a stream's `changed`, has raised this. The default tells the loop."""

    # What users do

    @property
    def usable(self) -> bool:
        """Whether there is a connection, and it has not failed."""
    @property
    def open_streams(self) -> int:
        """How many streams are open."""
    @property
    def full(self) -> bool:
        """Whether the peer takes no more streams at the moment."""
    @property
    def peer_max_streams(self) -> int:
        """How many the peer takes at a time. nghttp2 keeps a request above that until there is room."""
    @property
    def last_stream_id(self) -> int:
        """The last of the peer's streams that was told here, for `goaway`."""
    def request(
        self,
        stream: Stream,
        path: bytes,
        timeout: float,
        pairs: Sequence[Pair] | None,
        message: bytes | None = None,
        compressed: bool = False,
    ) -> None:
        """Start a client's call.

        Args:
            stream: A new one.
            path: `/package.Service/Method`.
            timeout: Seconds to its deadline, sent along and not kept here; negative for none.
            pairs: Metadata in the form of the wire.
            message: The only one; the client's side ends with it. None if `send` and `end` follow.
            compressed: Whether that message is.

        Raises:
            ConnectionError: The connection has ended, or its numbers are used up.
        """
    def flush_soon(self) -> None:
        """Write in the next turn of the loop."""
    def ping(self, payload: bytes) -> None:
        """Send a ping of 8 bytes."""
    def announce_shutdown(self) -> None:
        """A server's first GOAWAY, which refuses nothing yet (RFC 9113, 6.8)."""
    def goaway(self, last_stream_id: int, code: int = 0, text: bytes = b"") -> None:
        """Take no streams above that one any more; those below go on."""
    def terminate(self, reason: Any, code: int = 0) -> None:
        """Send GOAWAY, then close the connection; streams that are open are lost."""
    def abort(self, reason: Any) -> None:
        """Close the connection at once."""
