# cython: language_level=3, boundscheck=False, wraparound=False
"""HTTP/2 connections that carry gRPC: one nghttp2 session each, in the event loop's own thread.

`_engine.pyi` is the interface, with the words for those who use it; this file says why it works.

Four rules hold everywhere here.

1. Nothing of the user's runs while nghttp2 does. Its callbacks note what happened in the streams and in
   `_events`; `_dispatch` tells afterwards. So a peer that opens and resets streams in one packet starts
   nothing, and nobody can end a session under nghttp2's feet.
2. Callbacks never raise. What goes wrong in one (no memory, a bug) is kept, nghttp2 is told to give up,
   and the connection ends with that as its reason.
3. nghttp2 holds plain pointers to streams: `_streams` keeps each of them alive from before nghttp2 hears
   of it until nghttp2 has closed it. A session is freed only when no call into nghttp2 is in progress.
4. What a peer sends is kept as the bytes that it sent until it is asked for, and within the window that it
   was given; a message becomes an object when it is taken.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.math cimport ceil
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from collections import deque

from pymicro_fast._nghttp2 cimport *

__all__ = ["Buffers", "INTERFACE", "NGHTTP2", "Session", "Stream", "error_name"]

INTERFACE = 2
NGHTTP2 = (<bytes>nghttp2_version(0).version_str).decode()

# Bytes that nghttp2 is asked for at a time; the socket takes what it can, and tells if it cannot.
DEF BURST = 262144
# A message of more than this gets an object of its size as soon as this much of it has come. One that only
# claims to be large costs nothing.
DEF BELIEVED = 16384
# HTTP/2's default window, the smallest that we give a stream.
DEF SMALLEST_WINDOW = 65535
# Bytes that a queued message counts for besides its own.
DEF MESSAGE = 64
# Resets of streams that a peer may cause, at once and per second, before nghttp2 ends the connection. Each
# deadline, cancel and hedge is one, and nghttp2's 1,000 and 33 end honest connections. Handlers that still
# run are what is limited instead.
DEF RESETS = 1000000
# What nghttp2 calls a glitch: a frame that is suspicious, and may be honest. The headers of an answer are one
# if its call was cancelled meanwhile, so whoever cancels many calls would lose the connection after 10,000 of
# them. What moves nothing is counted here, see CREDIT.
DEF GLITCHES = 1000000
# What a peer may send that moves nothing: WINDOW_UPDATE, PRIORITY, PING, SETTINGS, RST_STREAM, empty DATA,
# CONTINUATION, what is unknown, and a server's HEADERS, since it may send any number of interim answers. Each takes one from the connection's credit. So many are there at first, and so many come back
# a second; each costs 0.05 to 0.5 microseconds.
DEF CREDIT = 10000.0
DEF CREDIT_A_SECOND = 1000.0
# Work brings credit, since honest peers answer it with such frames: a stream (its headers and trailers, reset
# and window), and a frame of DATA that is sent (a window for the stream and one for the connection, for each
# piece that the peer reads of it).
DEF CREDIT_OF_STREAM = 6.0
DEF CREDIT_OF_FRAME = 4.0
DEF CREDIT_OF_BYTE = 1.0 / 64
DEF MOST_CREDIT = 100000.0
# Frames of DATA for streams that are closed take one for so many: what is under way to a stream that is reset
# here is such frames too, tens of thousands if its messages are small.
DEF PASSED_OVER = 16
# Bytes that a stream's window must have for its next message to count as one that goes out: a peer that gives
# each of a thousand streams a little would get a thousand messages queued. gRPC's peers give 64 KB and more.
DEF WORTHWHILE = 16384
# Streams that are told at a time that the session has room again.
DEF CROWD = 32

DEF OPEN = -1
DEF LOST = -2


def error_name(code):
    """HTTP/2's name of an error code."""
    return (<bytes>nghttp2_http2_strerror(<uint32_t>code)).decode()


cdef class Buffers:
    cdef readonly object view
    cdef bytearray _held
    cdef uint8_t *incoming
    cdef uint8_t *outgoing
    cdef size_t room

    def __cinit__(self, Py_ssize_t size=262144):
        self._held = bytearray(size)
        self.view = memoryview(self._held)  # which also keeps it from being resized
        self.incoming = <uint8_t *><char *>self._held
        self.room = BURST + 32768
        self.outgoing = <uint8_t *>malloc(self.room)
        if self.outgoing == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.outgoing)


cdef inline nghttp2_nv _nv(bytes name, bytes value) noexcept:
    cdef nghttp2_nv pair
    pair.name = <uint8_t *>PyBytes_AS_STRING(name)
    pair.namelen = PyBytes_GET_SIZE(name)
    pair.value = <uint8_t *>PyBytes_AS_STRING(value)
    pair.valuelen = PyBytes_GET_SIZE(value)
    pair.flags = NGHTTP2_NV_FLAG_NONE
    return pair


cdef inline str _text(const uint8_t *start, size_t length):
    # Both are ASCII from everybody who keeps to gRPC; what else comes must be shown, and not end a call.
    try:
        return PyUnicode_DecodeUTF8(<const char *>start, length, NULL)
    except UnicodeDecodeError:
        return PyUnicode_DecodeLatin1(<const char *>start, length, NULL)


cdef class _Pairs:
    """Headers in nghttp2's form; it copies them when they are submitted."""
    cdef nghttp2_nv *list
    cdef size_t count, room
    cdef nghttp2_nv few[48]

    def __cinit__(self):
        self.list = self.few
        self.room = 48

    def __dealloc__(self):
        if self.list != self.few:
            free(self.list)

    cdef int add(self, nghttp2_nv pair) except -1:
        cdef nghttp2_nv *grown
        if self.count == self.room:
            grown = <nghttp2_nv *>malloc(2 * self.room * sizeof(nghttp2_nv))
            if grown == NULL:
                raise MemoryError
            memcpy(grown, self.list, self.count * sizeof(nghttp2_nv))
            if self.list != self.few:
                free(self.list)
            self.list = grown
            self.room *= 2
        self.list[self.count] = pair
        self.count += 1
        return 0

    cdef int extend(self, object pairs) except -1:
        cdef bytes name, value
        if pairs is not None:
            for name, value in pairs:
                self.add(_nv(name, value))
        return 0


cdef class Stream:
    cdef readonly Session session
    cdef readonly int32_t id
    # What the peer's headers say
    cdef readonly bytes method, path, authority, content_type, encoding, accept_encoding, message
    cdef readonly int http_status, grpc_status
    cdef readonly double timeout
    cdef readonly list initial, trailing
    cdef readonly bint oversized
    cdef list _block
    cdef size_t _block_bytes
    # What has come
    cdef readonly bint ended
    cdef readonly long error
    cdef readonly size_t excess
    cdef readonly bint malformed
    cdef bytes _ready
    cdef bint _compressed
    cdef bytes _growing
    cdef size_t _need, _have
    cdef uint8_t *_raw
    cdef size_t _start, _stop, _room
    cdef size_t _owed, _taken, _granted
    cdef bint _waits
    cdef int32_t _window
    # What is to go
    cdef readonly bint sent, half_closed
    cdef readonly size_t queued
    cdef public bint wants_room, wants_sent
    cdef bytes _head
    cdef bint _head_compressed
    cdef object _more
    cdef size_t _offset
    cdef bint _deferred, _answered
    cdef list _trailers
    cdef bint _touched

    def __cinit__(self, *args, **kwargs):
        self.error = OPEN
        self.grpc_status = -1
        self.timeout = -1.0

    def __dealloc__(self):
        free(self._raw)

    # Questions

    @property
    def closed(self):
        return self.error != OPEN

    @property
    def available(self):
        return self._ready is not None

    @property
    def partial(self):
        return self._growing is not None or (self._ready is None and self._stop > self._start)

    def room(self):
        cdef Session session = self.session
        if self.error != OPEN:
            return True
        if session.queued < session.most:
            return self.queued == 0 or self._weight() < session.high
        # The session is full. What goes out in the next turn is not kept, so it may come; and the streams that
        # nobody reads hold up none of the others.
        if self.queued == 0 and self._goes_out():
            return True
        session._full[self] = None
        return False

    cdef bint _goes_out(self) noexcept:
        """Whether a message would go out in the next turn of the loop."""
        cdef nghttp2_session *s = self.session._s
        return (
            s != NULL and not self.session.paused
            and nghttp2_session_get_remote_window_size(s) > <int32_t>min(self.session._fresh, <size_t>0x7FFFFFFF)
            and nghttp2_session_get_stream_remote_window_size(s, self.id) >= WORTHWHILE
        )

    cdef inline size_t _weight(self) noexcept:
        """What is queued, with what it costs to keep a message: a queue of tiny ones is all objects."""
        return self.queued if self._more is None else self.queued + MESSAGE * <size_t>len(self._more)

    # What has come

    def changed(self):
        raise NotImplementedError

    def inflate(self, data):
        raise NotImplementedError

    def take(self):
        cdef bytes message = self._ready
        cdef Session session
        if message is None:
            return None
        self._ready = None
        if self._granted:
            self._release()
        cdef bint compressed = self._compressed
        if self._stop > self._start:
            self._parse()
        session = self.session
        if self.error == OPEN and not self.ended:
            self._grow(PyBytes_GET_SIZE(message) + 5)
            self._give_back()
            if nghttp2_session_want_write(session._s):
                session._later()
        return self.inflate(message) if compressed else message

    def discard(self):
        """Drop what has come and was not taken."""
        self._drop_incoming()
        if self.error == OPEN and not self.ended:
            self._give_back()
            if nghttp2_session_want_write(self.session._s):
                self.session._later()

    cdef void _drop_incoming(self) noexcept:
        self._ready = self._growing = None
        if self._granted:
            self._release()
        free(self._raw)
        self._raw = NULL
        self._start = self._stop = self._room = 0

    cdef int _receive(self, const uint8_t *data, size_t length) except -1:
        """Bytes of messages: into the one that is growing, the one that is ready, or the rest."""
        cdef size_t part, need
        self._owed += length
        if self.excess or self.malformed:
            length = 0
        if self._growing is not None:
            part = min(self._need - self._have, length)
            memcpy(PyBytes_AS_STRING(self._growing) + self._have, data, part)
            self._have += part
            data += part
            length -= part
            if self._have == self._need:
                self._ready = self._growing
                self._growing = None
        if length >= 5 and self._ready is None and self._stop == self._start and data[0] <= 1:
            need = (<size_t>data[1] << 24) | (<size_t>data[2] << 16) | (<size_t>data[3] << 8) | data[4]
            if need <= length - 5 and need <= self.session.max_message:
                self._ready = PyBytes_FromStringAndSize(<const char *>data + 5, need)
                self._compressed = data[0] == 1
                data += 5 + need
                length -= 5 + need
        if length:
            self._keep(data, length)
            if self._ready is None:
                self._parse()
        self._give_back()
        return 0

    cdef int _keep(self, const uint8_t *data, size_t length) except -1:
        cdef size_t held = self._stop - self._start, wanted
        cdef uint8_t *raw
        if self._stop + length > self._room:
            if held and self._start:
                memmove(self._raw, self._raw + self._start, held)
            self._start = 0
            self._stop = held
            if held + length > self._room:
                wanted = max(2 * self._room, held + length)
                raw = <uint8_t *>realloc(self._raw, wanted)
                if raw == NULL:
                    raise MemoryError
                self._raw = raw
                self._room = wanted
        memcpy(self._raw + self._stop, data, length)
        self._stop += length
        return 0

    cdef int _parse(self) except -1:
        """The next message out of the rest, if it is there; called when none is ready or growing."""
        cdef uint8_t *raw = self._raw + self._start
        cdef size_t held = self._stop - self._start, need
        if held < 5:
            return 0
        need = (<size_t>raw[1] << 24) | (<size_t>raw[2] << 16) | (<size_t>raw[3] << 8) | raw[4]
        if raw[0] > 1 or need > self.session_limit():
            if raw[0] > 1:
                self.malformed = True
            else:
                self.excess = need
            self._drop_incoming()
            return 0
        self._compressed = raw[0] == 1
        if held - 5 >= need:
            self._ready = PyBytes_FromStringAndSize(<const char *>raw + 5, need)
            self._start += 5 + need
        elif held - 5 >= BELIEVED:
            if not self._granted_room(need):
                return 0
            self._growing = PyBytes_FromStringAndSize(NULL, need)
            self._need = need
            self._have = held - 5
            memcpy(PyBytes_AS_STRING(self._growing), raw + 5, self._have)
            self._start = self._stop
        if self._start == self._stop:
            self._start = self._stop = 0
            if self._room > 4096:
                free(self._raw)
                self._raw = NULL
                self._room = 0
        return 0

    cdef bint _granted_room(self, size_t need) except -1:
        """Whether a large message may grow now; if not, its stream waits, with its window full."""
        cdef Session session = self.session
        if self.error != OPEN:
            return True
        if session.growing and session.growing + need > session.max_growing:
            if not self._waits:
                self._waits = True
                session._crowded[self] = None
            return False
        session.growing += need
        self._granted = need
        return True

    cdef void _release(self) noexcept:
        """Its large message was taken, or is no longer wanted."""
        cdef Session session = self.session
        if self._granted:
            session.growing -= self._granted
            self._granted = 0
            if session._crowded:
                session._admit()

    cdef size_t session_limit(self) noexcept:
        # A stream that is closed may still have messages that were not taken.
        return self.session.max_message

    cdef void _give_back(self) noexcept:
        """Give the peer its window back for all that is not held here.

        Bytes of a message that is growing are not held: it may be larger than the window.
        """
        cdef size_t held = self._stop - self._start
        if self._ready is not None:
            held += PyBytes_GET_SIZE(self._ready) + 5
        if self._owed > held:
            if self.error == OPEN and self.session._s != NULL:
                nghttp2_session_consume_stream(self.session._s, self.id, self._owed - held)
            self._owed = held

    cdef void _grow(self, size_t taken) noexcept:
        """Double the window of a stream whose reader keeps up, each time it has read two windows full."""
        cdef Session session = self.session
        self._taken += taken
        if self._ready is not None or self._taken < 2 * <size_t>self._window:
            return
        self._taken = 0
        if 2 * self._window <= session.max_window and session.grown + self._window <= session.max_grown:
            session.grown += self._window
            self._window *= 2
            nghttp2_session_set_local_window_size(session._s, 0, self.id, self._window)

    # What is to go

    def send(self, bytes message, bint compressed=False):
        if self.half_closed:
            raise RuntimeError("the stream's last message was sent before")
        if self.error != OPEN:
            return
        if self._head is None:
            self._head = message
            self._head_compressed = compressed
        else:
            if self._more is None:
                self._more = deque()
            self._more.append((message, compressed))
        cdef size_t size = PyBytes_GET_SIZE(message) + 5
        self.queued += size
        self.session.queued += size
        self.session._fresh += size
        if self.session.server and not self._answered:
            self._respond(None)
        self._resume()

    def end(self):
        if not self.half_closed and self.error == OPEN:
            self.half_closed = True
            self._resume()

    def respond(self, pairs):
        if self._answered:
            raise RuntimeError("the stream's headers were sent before")
        if self.error == OPEN:
            self._respond(pairs)
            self.session._later()

    cdef int _respond(self, object pairs) except -1:
        cdef _Pairs all = _Pairs()
        cdef nghttp2_data_provider2 provider
        all.add(_nv(b":status", b"200"))
        all.extend(self.session._fixed)
        all.extend(pairs)
        provider.source.ptr = <void *>self
        provider.read_callback = _on_read
        self._answered = True
        self._check(nghttp2_submit_response2(self.session._s, self.id, all.list, all.count, &provider))
        return 0

    def finish(self, list trailers):
        cdef _Pairs all
        if self.half_closed or self.error != OPEN:
            return
        self.half_closed = True
        if self._answered:
            self._trailers = trailers
            self._resume()
            return
        # No message and no headers went before: one block has all.
        all = _Pairs()
        all.add(_nv(b":status", b"200"))
        all.extend(self.session._fixed)
        all.extend(trailers)
        self._submit_last(all)

    def answer(self, bytes message, list trailers):
        cdef Session session = self.session
        if self.half_closed:
            raise RuntimeError("the stream's last message was sent before")
        if self.error != OPEN:
            return
        if self._answered:
            self.send(message)
            self.finish(trailers)
            return
        self._head = message
        self._head_compressed = False
        self.queued = PyBytes_GET_SIZE(message) + 5
        session.queued += self.queued
        session._fresh += self.queued
        self.half_closed = True
        self._trailers = trailers
        self._respond(None)
        session._soon_or_now()

    def refuse(self, list pairs):
        cdef _Pairs all
        if self.half_closed or self._answered or self.error != OPEN:
            return
        self.half_closed = True
        all = _Pairs()
        all.extend(pairs)
        self._submit_last(all)

    cdef int _submit_last(self, _Pairs all) except -1:
        self._answered = True
        self._check(nghttp2_submit_response2(self.session._s, self.id, all.list, all.count, NULL))
        self.session._soon_or_now()
        return 0

    def renew(self):
        if self.error == OPEN:
            if self.session is None:
                return
            raise RuntimeError("the stream is open")
        self._drop_incoming()
        self.session = None
        self.id = 0
        self.http_status = 0
        self.grpc_status = -1
        self.content_type = self.encoding = self.accept_encoding = self.message = None
        self.initial = self.trailing = self._block = None
        self.oversized = self.ended = self.malformed = self.sent = self.half_closed = self._deferred = False
        self.excess = self._owed = self._taken = self._offset = 0
        self.error = OPEN

    def reset(self, uint32_t code=8):
        if self.error != OPEN:
            return
        if self.session is None:
            self.error = code
            return
        self._close(code)
        nghttp2_submit_rst_stream(self.session._s, NGHTTP2_FLAG_NONE, self.id, code)
        self.session._later()

    cdef int _resume(self) except -1:
        if self._deferred:
            self._deferred = False
            nghttp2_session_resume_data(self.session._s, self.id)
        if self.half_closed:
            self.session._soon_or_now()
        else:
            self.session._later()
        return 0

    cdef int _check(self, int result) except -1:
        if result < 0:
            raise RuntimeError((<bytes>nghttp2_strerror(result)).decode())
        return 0

    cdef void _close(self, long error) noexcept:
        """It takes no more part; what was received may still be taken."""
        self.error = error
        if self._waits:
            self._waits = False
            self.session._crowded.pop(self, None)
        if self.session._full:
            self.session._full.pop(self, None)
        if self._granted:
            self._release()
        self.session.queued -= self.queued
        self.queued = 0
        self._head = self._more = None
        self._trailers = None
        if self._window > self.session.window:
            self.session.grown -= self._window - self.session.window
            self._window = self.session.window

    cdef inline void _next(self) noexcept:
        self._offset = 0
        self._head = None
        if self._more is not None:
            if self._more:
                self._head, self._head_compressed = self._more.popleft()
            else:
                self._more = None


cdef class Session:
    cdef nghttp2_session *_s
    cdef Buffers _buffers
    cdef readonly bint server
    cdef object _accept
    cdef object _loop, _call_soon, _write
    cdef readonly object transport
    cdef dict _streams
    cdef list _touched, _events
    cdef dict _crowded, _full  # streams, in their order
    cdef double _credit, _counted
    cdef size_t _skip, _read  # of the frame that was counted last: bytes to come, bytes of its head
    cdef uint8_t _frame_head[9]
    cdef long long _passed_over
    cdef bint _calm, _reopened
    cdef size_t _fresh  # bytes that were queued since it was flushed last
    cdef object _kept
    cdef object _scheduled
    cdef bint _busy, _failed, _told, _dispatching, _answering
    cdef readonly bint paused
    cdef public bint wants_stream
    cdef readonly object reason
    cdef list _fixed
    cdef bytes _scheme, _authority
    cdef public size_t max_message, max_header_bytes, high, most
    cdef readonly size_t queued, grown
    cdef public size_t max_grown, max_growing
    cdef readonly size_t growing
    cdef readonly unsigned long long received
    cdef unsigned long pings
    cdef public bint replied
    cdef readonly int32_t window
    cdef public int32_t max_window
    cdef int32_t _connection_window
    cdef long long _max_streams
    cdef object __weakref__

    def __init__(
        self,
        loop,
        Buffers buffers,
        *,
        accept=None,
        list fixed,
        bytes scheme=b"http",
        bytes authority=b"",
        size_t max_message=4194304,
        size_t max_header_bytes=16384,
        int32_t window=131072,
        int32_t max_window=4194304,
        int32_t connection_window=8388608,
        max_streams=None,
        size_t high=65536,
        size_t most=4194304,
        size_t max_growing=67108864,
    ):
        self.server = accept is not None
        self._accept = accept
        self._loop = loop
        self._call_soon = loop.call_soon
        self._buffers = buffers
        self._streams = {}
        self._touched = []
        self._events = []
        self._crowded = {}
        self._full = {}
        self._credit = CREDIT
        self._skip = 24 if self.server else 0  # a client's first bytes are no frame (RFC 9113, 3.4)
        self._counted = _now()
        self._fixed = fixed
        self._scheme = scheme
        self._authority = authority
        self.max_message = max_message
        self.max_header_bytes = max_header_bytes
        self.window = max(window, SMALLEST_WINDOW)
        self.max_window = max_window
        self.max_grown = 4 * <size_t>max_window
        self._connection_window = connection_window
        self._max_streams = -1 if max_streams is None else max_streams
        self.high = high
        self.most = most
        self.max_growing = max_growing

    def __dealloc__(self):
        if self._s != NULL:
            nghttp2_session_del(self._s)

    # asyncio.BufferedProtocol

    def connection_made(self, transport):
        cdef nghttp2_session_callbacks *callbacks = NULL
        cdef nghttp2_option *option = NULL
        cdef nghttp2_settings_entry settings[6]
        cdef size_t count = 0
        cdef int result
        self.transport = transport
        self._write = transport.write
        if nghttp2_session_callbacks_new(&callbacks) != 0:
            raise MemoryError
        if nghttp2_option_new(&option) != 0:
            nghttp2_session_callbacks_del(callbacks)
            raise MemoryError
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, _on_begin_headers)
        nghttp2_session_callbacks_set_on_header_callback(callbacks, _on_header)
        nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, _on_begin_frame)
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, _on_frame)
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, _on_sent)
        nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, _on_not_sent)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, _on_data)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, _on_close)
        nghttp2_session_callbacks_set_data_source_read_length_callback2(callbacks, _on_read_length)
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_no_closed_streams(option, 1)
        nghttp2_option_set_stream_reset_rate_limit(option, RESETS, RESETS)
        nghttp2_option_set_glitch_rate_limit(option, GLITCHES, GLITCHES)
        # nghttp2 would leave a value with a space at an end out in silence; to grpc it is a value (grpc-core sends
        # and takes it).
        nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(option, 1)
        if self.server:
            result = nghttp2_session_server_new2(&self._s, callbacks, <void *>self, option)
        else:
            result = nghttp2_session_client_new2(&self._s, callbacks, <void *>self, option)
        nghttp2_option_del(option)
        nghttp2_session_callbacks_del(callbacks)
        if result != 0:
            raise MemoryError
        if self.server:
            if self._max_streams >= 0:
                settings[count].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
                settings[count].value = <uint32_t>self._max_streams
                count += 1
        else:
            settings[count].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
            settings[count].value = 0
            count += 1
        settings[count].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[count].value = self.window
        count += 1
        # Between two ends of ours fewer and larger frames make large messages 1.2 to 1.4 times cheaper.
        settings[count].settings_id = NGHTTP2_SETTINGS_MAX_FRAME_SIZE
        settings[count].value = 65536
        count += 1
        settings[count].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[count].value = <uint32_t>self.max_header_bytes
        count += 1
        nghttp2_submit_settings(self._s, NGHTTP2_FLAG_NONE, settings, count)
        nghttp2_session_set_local_window_size(self._s, NGHTTP2_FLAG_NONE, 0, self._connection_window)
        self._flush()

    def get_buffer(self, sizehint):
        return self._buffers.view

    def buffer_updated(self, Py_ssize_t count):
        cdef nghttp2_ssize result
        if self._s == NULL or self._failed:
            return
        self.received += count
        self._count(self._buffers.incoming, count)
        self._busy = True
        result = nghttp2_session_mem_recv2(self._s, self._buffers.incoming, count)
        self._busy = False
        if result < 0:
            self._fail(result)
        elif self._passed_over > 0:
            self._spend(<double>self._passed_over / PASSED_OVER)
        self._passed_over = 0
        if self._calm:
            self._failed = True
        if self._reopened:
            self._reopened = False
            if self._full:
                self._tell_full()
        self._answering = self.server
        try:
            self._dispatch()
        finally:
            self._answering = False
        if self._s == NULL:
            return
        if self._failed or nghttp2_session_want_write(self._s) or not nghttp2_session_want_read(self._s):
            if self.server and self._scheduled is None:
                # What has just come may be answered already: nothing more is to be waited for.
                self._turn()
            else:
                self._later()
        elif not self.server and self._streams:
            # Who was told of an answer often makes the next call, in the turn that comes now: what writes it
            # is put behind them, and so needs no turn of its own.
            self._later()

    def eof_received(self):
        return False

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self._later()

    def connection_lost(self, exc):
        cdef Stream stream
        if self.reason is None:
            self.reason = exc if exc is not None else "the peer closed the connection"
        self._failed = True
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        for stream in self._streams.values():
            if stream.error == OPEN:
                stream._close(LOST)
                self._touch(stream)
        self._streams.clear()
        self._events.append((b"lost",))
        self._free()
        self._dispatch()

    cdef void _count(self, const uint8_t *data, size_t count) noexcept:
        """Count the frames in it that move nothing, before nghttp2 reads them: it passes over some in silence."""
        cdef size_t place = 0, part, length
        cdef uint8_t *head = self._frame_head
        while place < count:
            part = min(self._skip, count - place)
            self._skip -= part
            place += part
            part = min(9 - self._read, count - place)
            if part == 0:
                continue
            memcpy(head + self._read, data + place, part)
            place += part
            self._read += part
            if self._read < 9:
                return
            self._read = 0
            length = (<size_t>head[0] << 16) | (<size_t>head[1] << 8) | head[2]
            self._skip = length
            if head[3] == NGHTTP2_DATA and length:
                self._passed_over += 1  # unless nghttp2 tells of it
            elif head[3] == NGHTTP2_HEADERS and self.server:
                self._earn(CREDIT_OF_STREAM)
            else:
                self._spend(1)

    cdef void _spend(self, double count) noexcept:
        """So many frames moved nothing; who has no credit for them is cut off."""
        cdef double now
        self._credit -= count
        if self._credit >= 0 or self._calm:
            return
        now = _now()
        self._credit += min(CREDIT, (now - self._counted) * CREDIT_A_SECOND)
        self._counted = now
        if self._credit < 0:
            self._calm = True
            if self.reason is None:
                self.reason = "the peer sent too many frames that move nothing (ENHANCE_YOUR_CALM)"
            nghttp2_session_terminate_session(self._s, NGHTTP2_ENHANCE_YOUR_CALM)

    cdef inline void _earn(self, double count) noexcept:
        self._credit = min(self._credit + count, MOST_CREDIT)

    cdef bint _tell_full(self) except -1:
        """Tell some of those that wait for room in the session and have it, the first ones first."""
        cdef Stream stream
        cdef int told = 0
        for stream in list(self._full):
            if stream.error == OPEN and self.queued >= self.most and (stream.queued or not stream._goes_out()):
                continue
            del self._full[stream]
            if stream.error == OPEN:
                self._touch(stream)
                told += 1
                if told == CROWD:
                    break
        return told > 0

    cdef void _free(self) noexcept:
        if self._s != NULL and not self._busy:
            nghttp2_session_del(self._s)
            self._s = NULL

    cdef void _admit(self) noexcept:
        """There is room for large messages again: let those grow that wait, the first ones first."""
        cdef Stream stream
        waiting, self._crowded = self._crowded, {}
        try:
            for stream in waiting:
                stream._waits = False
                if stream.error == OPEN and stream._ready is None and stream._growing is None:
                    stream._parse()
                    stream._give_back()
        except BaseException as exc:
            _keep_error(self, exc)
        if not self._busy and self._s != NULL:
            self._later()

    # Telling

    cdef inline void _touch(self, Stream stream) noexcept:
        if not stream._touched:
            stream._touched = True
            self._touched.append(stream)

    cdef _dispatch(self):
        """Tell what has happened, the connection's own events first; those told may do anything."""
        cdef Stream stream
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._events or self._touched:
                events, self._events = self._events, []
                touched, self._touched = self._touched, []
                for event in events:
                    try:
                        self._tell(event)
                    except Exception as exc:
                        self.mishap(exc)
                for stream in touched:
                    stream._touched = False
                    try:
                        stream.changed()
                    except Exception as exc:
                        stream.reset(NGHTTP2_INTERNAL_ERROR)
                        self.mishap(exc)
        finally:
            self._dispatching = False

    cdef _tell(self, tuple event):
        kind = event[0]
        if kind == b"settings":
            self.settings_received()
        elif kind == b"ping":
            self.pong_received(event[1])
        elif kind == b"stream":
            self.stream_ended()
        elif kind == b"pinged":
            count = self.pings
            self.pings = 0
            self.pings_received(count)
        elif kind == b"goaway":
            self.goaway_received(event[1], event[2], event[3])
        elif not self._told:
            self._told = True
            self.lost(self.reason)

    def settings_received(self):
        pass

    def pong_received(self, payload):
        pass

    def pings_received(self, count):
        pass

    def goaway_received(self, last_stream_id, error, text):
        pass

    def stream_ended(self):
        pass

    def lost(self, reason):
        pass

    def mishap(self, error):
        self._loop.call_exception_handler({"message": "a stream's bytes could not be handled", "exception": error})

    # Writing

    cdef _later(self):
        if self._scheduled is None and self._s != NULL and not self._answering:
            self._scheduled = self._call_soon(self._turn)

    cdef _soon_or_now(self):
        """Write in the next turn of the loop, with whatever else there is to write by then.

        With one stream there will be nothing else, and a turn costs more than a write.
        """
        if self._scheduled is None and len(self._streams) == 1 and not self._busy and not self._dispatching:
            self._flush()
            if self._touched or self._events:
                self._later()
        else:
            self._later()

    def _turn(self):
        self._scheduled = None
        self._flush()
        self._dispatch()

    cdef _flush(self):
        cdef const uint8_t *piece
        cdef nghttp2_ssize count
        cdef size_t used
        cdef uint8_t *grown
        cdef Buffers buffers = self._buffers
        if self._s == NULL or self._busy:
            return
        self._fresh = 0
        while not self.paused:
            used = 0
            count = 0
            self._busy = True
            while used < BURST:
                count = nghttp2_session_mem_send2(self._s, &piece)
                if count <= 0:
                    break
                if used + count > buffers.room:
                    grown = <uint8_t *>realloc(buffers.outgoing, used + count + BURST)
                    if grown == NULL:
                        self._kept = MemoryError()
                        count = NGHTTP2_ERR_CALLBACK_FAILURE
                        break
                    buffers.outgoing = grown
                    buffers.room = used + count + BURST
                memcpy(buffers.outgoing + used, piece, count)
                used += count
            self._busy = False
            if used:
                self._write(PyBytes_FromStringAndSize(<const char *>buffers.outgoing, used))
            if count < 0:
                self._fail(count)
                break
            if used < BURST:
                break
        if self._failed or not (nghttp2_session_want_read(self._s) or nghttp2_session_want_write(self._s)):
            self.transport.close()
        elif self._full and not self.paused and self._tell_full():
            self._later()

    cdef _fail(self, nghttp2_ssize result):
        """nghttp2 gives up: what it has to say goes out, then the connection is closed."""
        self._failed = True
        if self.reason is None:
            self.reason = self._kept if self._kept is not None else (<bytes>nghttp2_strerror(<int>result)).decode()
        if result == NGHTTP2_ERR_FLOODED or result == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS:
            nghttp2_session_terminate_session(self._s, NGHTTP2_ENHANCE_YOUR_CALM)

    # What users do

    @property
    def usable(self):
        return self._s != NULL and not self._failed

    @property
    def open_streams(self):
        return len(self._streams)

    @property
    def full(self):
        return <uint32_t>len(self._streams) >= self.peer_max_streams

    @property
    def peer_max_streams(self):
        if self._s == NULL:
            return 0
        return nghttp2_session_get_remote_settings(self._s, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)

    @property
    def last_stream_id(self):
        return 0 if self._s == NULL else nghttp2_session_get_last_proc_stream_id(self._s)

    def request(self, Stream stream, bytes path, double timeout, pairs, bytes message=None, bint compressed=False):
        cdef _Pairs all
        cdef nghttp2_data_provider2 provider
        cdef nghttp2_nv pair
        cdef char text[24]
        cdef int32_t made
        if self._s == NULL or self._failed:
            raise ConnectionError(f"the connection is lost: {self.reason}")
        if stream.session is not None:
            raise RuntimeError("the stream was started before")
        all = _Pairs()
        all.add(_nv(b":method", b"POST"))
        all.add(_nv(b":scheme", self._scheme))
        all.add(_nv(b":path", path))
        all.add(_nv(b":authority", self._authority))
        all.add(_nv(b"te", b"trailers"))
        if timeout >= 0:
            pair = _nv(b"grpc-timeout", b"")
            pair.value = <uint8_t *>text
            pair.valuelen = _write_timeout(text, timeout)
            # Each is another one: it would push what is worth keeping out of the table.
            pair.flags = NGHTTP2_NV_FLAG_NO_INDEX
            all.add(pair)
        all.extend(self._fixed)
        all.extend(pairs)
        stream.session = self
        stream._window = self.window
        provider.source.ptr = <void *>stream
        provider.read_callback = _on_read
        made = nghttp2_submit_request2(self._s, NULL, all.list, all.count, &provider, <void *>stream)
        if made < 0:
            stream.session = None
            raise ConnectionError((<bytes>nghttp2_strerror(made)).decode())
        stream.id = made
        self._streams[made] = stream
        if message is None:
            self._later()
        else:
            stream._head = message
            stream._head_compressed = compressed
            stream.queued = PyBytes_GET_SIZE(message) + 5
            self.queued += stream.queued
            self._fresh += stream.queued
            stream.half_closed = True
            self._soon_or_now()

    def flush_soon(self):
        self._later()

    def ping(self, bytes payload):
        if PyBytes_GET_SIZE(payload) != 8:
            raise ValueError("a ping carries 8 bytes")
        if self._s != NULL:
            nghttp2_submit_ping(self._s, NGHTTP2_FLAG_NONE, <uint8_t *>PyBytes_AS_STRING(payload))
            self._later()

    def announce_shutdown(self):
        if self._s != NULL:
            nghttp2_submit_shutdown_notice(self._s)
            self._later()

    def goaway(self, int32_t last_stream_id, uint32_t code=0, bytes text=b""):
        if self._s != NULL:
            nghttp2_submit_goaway(
                self._s, NGHTTP2_FLAG_NONE, last_stream_id, code,
                <uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text),
            )
            self._later()

    def terminate(self, reason, uint32_t code=0):
        if self.reason is None:
            self.reason = reason
        if self._s != NULL:
            nghttp2_session_terminate_session(self._s, code)
            self._later()

    def abort(self, reason):
        if self.reason is None:
            self.reason = reason
        self._failed = True
        if self.transport is not None:
            self.transport.abort()


cdef size_t _write_timeout(char *text, double seconds) noexcept:
    """gRPC's form: at most 8 digits and a unit; never less than asked for."""
    cdef double units = seconds * 1e6
    cdef char unit = b"u"
    if units >= 1e8:
        units = seconds * 1e3
        unit = b"m"
    if units >= 1e8:
        units = seconds
        unit = b"S"
    if units >= 1e8:
        units = min(seconds / 3600, 99999999.0)
        unit = b"H"
    return snprintf(text, 24, "%lu%c", <unsigned long>ceil(units), unit)


cdef double _read_timeout(const uint8_t *text, size_t length) noexcept:
    """Seconds; -2 if it is no timeout."""
    cdef double value = 0
    cdef size_t place
    if length < 2 or length > 9:
        return -2
    for place in range(length - 1):
        if not 48 <= text[place] <= 57:
            return -2
        value = 10 * value + (text[place] - 48)
    cdef uint8_t unit = text[length - 1]
    if unit == b"n":
        return value * 1e-9
    if unit == b"u":
        return value * 1e-6
    if unit == b"m":
        return value * 1e-3
    if unit == b"S":
        return value
    if unit == b"M":
        return value * 60
    if unit == b"H":
        return value * 3600
    return -2


cdef int _read_number(const uint8_t *text, size_t length) noexcept:
    """A number of at most 8 digits; -2 if it is none."""
    cdef int value = 0
    cdef size_t place
    if length == 0 or length > 8:
        return -2
    for place in range(length):
        if not 48 <= text[place] <= 57:
            return -2
        value = 10 * value + (text[place] - 48)
    return value


# nghttp2's callbacks. They note, and never raise: see the rules at the top.


cdef int _keep_error(Session session, object error) noexcept:
    if session._kept is None:
        session._kept = error
    return NGHTTP2_ERR_CALLBACK_FAILURE


cdef int _on_begin_frame(nghttp2_session *s, const nghttp2_frame_hd *hd, void *user) noexcept:
    cdef Session session = <Session>user
    if hd.type == NGHTTP2_DATA and hd.length:
        session._passed_over -= 1
    return 0


cdef double _now() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef int _on_begin_headers(nghttp2_session *s, const nghttp2_frame *frame, void *user) noexcept:
    cdef Session session = <Session>user
    cdef Stream stream
    cdef void *known = nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
    try:
        if known != NULL:
            stream = <Stream>known
        elif session.server and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
            stream = session._accept.__new__(session._accept)
            stream.session = session
            stream.id = frame.hd.stream_id
            stream._window = session.window
            session._streams[stream.id] = stream
            nghttp2_session_set_stream_user_data(s, stream.id, <void *>stream)
        else:
            return 0
        stream._block = []
        stream._block_bytes = 0
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)


cdef int _on_header(
    nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
    const uint8_t *value, size_t valuelen, uint8_t flags, void *user,
) noexcept:
    cdef Session session = <Session>user
    cdef void *known = nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
    if known == NULL:
        return 0
    cdef Stream stream = <Stream>known
    if stream._block is None:
        return 0
    # nghttp2 does not hold a peer to SETTINGS_MAX_HEADER_LIST_SIZE. The rest of the block is read, since
    # it belongs to the compression of all that follows, but not kept.
    stream._block_bytes += namelen + valuelen + 32
    if stream._block_bytes > session.max_header_bytes:
        stream.oversized = True
        stream._block = []
        return 0
    try:
        if name[0] == b":":
            if namelen == 7 and memcmp(name, b":status", 7) == 0:
                stream.http_status = _read_number(value, valuelen)
            elif namelen == 5 and memcmp(name, b":path", 5) == 0:
                stream.path = PyBytes_FromStringAndSize(<const char *>value, valuelen)
            elif namelen == 7 and memcmp(name, b":method", 7) == 0:
                stream.method = PyBytes_FromStringAndSize(<const char *>value, valuelen)
            elif namelen == 10 and memcmp(name, b":authority", 10) == 0:
                stream.authority = PyBytes_FromStringAndSize(<const char *>value, valuelen)
        elif namelen == 12 and memcmp(name, b"content-type", 12) == 0:
            if stream.initial is None:
                stream.content_type = PyBytes_FromStringAndSize(<const char *>value, valuelen)
        elif namelen == 2 and memcmp(name, b"te", 2) == 0:
            pass
        elif namelen > 5 and memcmp(name, b"grpc-", 5) == 0 and _take_grpc(stream, session, name, namelen, value, valuelen):
            pass
        elif namelen > 4 and memcmp(name + namelen - 4, b"-bin", 4) == 0:
            stream._block.append((_text(name, namelen), PyBytes_FromStringAndSize(<const char *>value, valuelen)))
        else:
            stream._block.append((_text(name, namelen), _text(value, valuelen)))
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)


cdef bint _take_grpc(
    Stream stream, Session session, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen
) except -1:
    """gRPC's own headers; False for one that is metadata."""
    # Trailers change nothing of what the headers have said.
    if namelen == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
        if stream.initial is None:
            stream.encoding = PyBytes_FromStringAndSize(<const char *>value, valuelen)
    elif namelen == 20 and memcmp(name, b"grpc-accept-encoding", 20) == 0:
        if stream.initial is None:
            stream.accept_encoding = PyBytes_FromStringAndSize(<const char *>value, valuelen)
    elif session.server:
        if namelen != 12 or memcmp(name, b"grpc-timeout", 12) != 0:
            return False
        if stream.initial is None:
            stream.timeout = _read_timeout(value, valuelen)
    elif namelen == 11 and memcmp(name, b"grpc-status", 11) == 0:
        stream.grpc_status = _read_number(value, valuelen)
    elif namelen == 12 and memcmp(name, b"grpc-message", 12) == 0:
        stream.message = PyBytes_FromStringAndSize(<const char *>value, valuelen)
    else:
        return False
    return True


cdef int _on_frame(nghttp2_session *s, const nghttp2_frame *frame, void *user) noexcept:
    cdef Session session = <Session>user
    cdef Stream stream
    cdef void *known
    try:
        if frame.hd.type == NGHTTP2_DATA or frame.hd.type == NGHTTP2_HEADERS:
            known = nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
            if known == NULL:
                return 0
            stream = <Stream>known
            if frame.hd.type == NGHTTP2_HEADERS:
                if not session.server and not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                    # A status is one in the last block only: in an earlier one it would make whatever breaks off
                    # afterwards a whole answer.
                    stream.grpc_status = -1
                    stream.message = None
                    if 100 <= stream.http_status < 200 and stream.initial is None:
                        # An interim answer: another block follows, and says everything anew.
                        stream._block = stream.content_type = stream.encoding = stream.accept_encoding = None
                        stream.oversized = False
                        return 0
                if stream.initial is None:
                    stream.initial = stream._block
                else:
                    stream.trailing = stream._block
                stream._block = None
            elif frame.hd.length == 0 and not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                return 0
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.ended = True
            if stream.error == OPEN:
                session._touch(stream)
        elif frame.hd.type == NGHTTP2_WINDOW_UPDATE:
            session._reopened = True
        elif frame.hd.type == NGHTTP2_SETTINGS:
            if not frame.hd.flags & NGHTTP2_FLAG_ACK:
                session._reopened = True
                session._events.append((b"settings",))
        elif frame.hd.type == NGHTTP2_PING:
            if frame.hd.flags & NGHTTP2_FLAG_ACK:
                session._events.append((b"ping", PyBytes_FromStringAndSize(<const char *>frame.ping.opaque_data, 8)))
            else:
                # One event for as many as there are: a peer may send thousands in one packet.
                if session.pings == 0:
                    session._events.append((b"pinged",))
                session.pings += 1
        elif frame.hd.type == NGHTTP2_GOAWAY:
            session._events.append((
                b"goaway", frame.goaway.last_stream_id, frame.goaway.error_code,
                PyBytes_FromStringAndSize(
                    <const char *>frame.goaway.opaque_data, min(frame.goaway.opaque_data_len, <size_t>1024)
                ) if frame.goaway.opaque_data_len else b"",
            ))
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)


cdef int _on_data(
    nghttp2_session *s, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length, void *user
) noexcept:
    cdef Session session = <Session>user
    cdef Stream stream
    cdef void *known = nghttp2_session_get_stream_user_data(s, stream_id)
    # The connection's window on receipt: a stream that nobody reads must not hold up the others.
    nghttp2_session_consume_connection(s, length)
    if known == NULL:
        return 0
    stream = <Stream>known
    if stream.error != OPEN:
        return 0
    try:
        stream._receive(data, length)
        session._touch(stream)
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)


cdef nghttp2_ssize _on_read_length(
    nghttp2_session *s, uint8_t kind, int32_t stream_id, int32_t session_window, int32_t stream_window,
    uint32_t max_frame, void *user,
) noexcept:
    return min(min(session_window, stream_window), <int32_t>min(max_frame, <uint32_t>65536))


cdef nghttp2_ssize _on_read(
    nghttp2_session *s, int32_t stream_id, uint8_t *buffer, size_t length, uint32_t *flags,
    nghttp2_data_source *source, void *user,
) noexcept:
    """The next bytes of a stream's messages, each after its 5 bytes of prefix."""
    cdef Session session = <Session>user
    cdef Stream stream = <Stream>source.ptr
    cdef size_t used = 0, size, part
    cdef _Pairs trailers
    if stream.error != OPEN:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    try:
        while used < length and stream._head is not None:
            size = PyBytes_GET_SIZE(stream._head)
            while stream._offset < 5 and used < length:
                if stream._offset == 0:
                    buffer[used] = stream._head_compressed
                else:
                    buffer[used] = (size >> (8 * (4 - stream._offset))) & 255
                stream._offset += 1
                used += 1
            if stream._offset >= 5:
                part = min(size + 5 - stream._offset, length - used)
                memcpy(buffer + used, PyBytes_AS_STRING(stream._head) + stream._offset - 5, part)
                stream._offset += part
                used += part
                if stream._offset == size + 5:
                    stream._next()
        stream.queued -= used
        session.queued -= used
        if stream._head is None and stream.half_closed:
            flags[0] |= NGHTTP2_DATA_FLAG_EOF
            if session.server:
                flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
                trailers = _Pairs()
                trailers.extend(stream._trailers)
                if nghttp2_submit_trailer(s, stream_id, trailers.list, trailers.count) < 0:
                    raise MemoryError
                stream._trailers = None  # not before nghttp2 has copied what they point to
        elif used == 0:
            stream._deferred = True
            return NGHTTP2_ERR_DEFERRED
        if stream.wants_room and stream._weight() < session.high // 2:
            session._touch(stream)
        return used
    except BaseException as exc:
        return _keep_error(session, exc)


cdef int _on_sent(nghttp2_session *s, const nghttp2_frame *frame, void *user) noexcept:
    cdef void *known
    cdef Session session = <Session>user
    if frame.hd.type != NGHTTP2_HEADERS and frame.hd.type != NGHTTP2_DATA:
        if frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
            return _on_complaint(session, &frame.goaway)
        return 0
    session.replied = True
    if frame.hd.type == NGHTTP2_DATA:
        session._earn(CREDIT_OF_FRAME + frame.hd.length * CREDIT_OF_BYTE)
    elif not session.server:
        session._earn(CREDIT_OF_STREAM)
    known = nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
    if known == NULL:
        return 0
    if not (<Stream>known).sent:
        (<Stream>known).sent = True
        if (<Stream>known).wants_sent:
            session._touch(<Stream>known)
    if session.server and frame.hd.flags & NGHTTP2_FLAG_END_STREAM and not (<Stream>known).ended:
        # The status went before the request's end: the peer need not send the rest (RFC 9113, 8.1).
        nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int _on_complaint(Session session, const nghttp2_goaway *frame) noexcept:
    """Either end wanted it so: nghttp2, when the peer breaks a rule, or whoever uses the session."""
    try:
        if session.reason is None:
            text = (<bytes>frame.opaque_data[:frame.opaque_data_len]).decode("utf-8", "replace")
            session.reason = f"it was closed here: {error_name(frame.error_code)}{': ' if text else ''}{text}"
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)


cdef int _on_not_sent(nghttp2_session *s, const nghttp2_frame *frame, int result, void *user) noexcept:
    # A request that cannot go out any more, for example after a GOAWAY, may never have been opened, and
    # then nghttp2 closes no stream.
    if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        return _on_close(s, frame.hd.stream_id, NGHTTP2_REFUSED_STREAM, user)
    return 0


cdef int _on_close(nghttp2_session *s, int32_t stream_id, uint32_t code, void *user) noexcept:
    cdef Session session = <Session>user
    cdef Stream stream
    try:
        stream = session._streams.pop(stream_id, None)
        if session.wants_stream and stream is not None:
            session.wants_stream = False
            session._events.append((b"stream",))
        # One that was reset here is closed already, and nobody waits for news of it.
        if stream is not None and stream.error == OPEN:
            stream._close(code)
            session._touch(stream)
        return 0
    except BaseException as exc:
        return _keep_error(session, exc)
