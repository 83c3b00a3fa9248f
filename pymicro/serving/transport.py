"""The seam between the network and the serving end: what a transport does, and what it runs.

A transport listens, accepts calls and moves their bytes. It knows no proto and no handler:
for each call it asks `ServedMethods` for the method and runs that. All else is above the seam:
messages, interceptors, admission, exceptions, what handlers see. grpc.aio's server is the
first transport (`grpc_transport.py`); `tests/fakes/server_transport.py` is another one.

The seam has the exceptions and the end mark of grpc.aio, because handlers and interceptors
that were written for it look for them, and no other object of grpc but its status codes.

Everything runs in one event loop, in one thread. An awaitable of a `ServedCall` need not
suspend: what can be done at once may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import grpc

from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.identity.keeper import IdentityKeeper
    from pymicro.rpc.wire.metadata import Pair

__all__ = [
    "CallDetails",
    "Metadatum",
    "Run",
    "ServedCall",
    "ServedMethod",
    "ServedMethods",
    "ServerTransport",
]


class Metadatum(NamedTuple):
    """One pair of a request's metadata; code written for grpc uses the names."""

    key: str
    value: str | bytes


class ServedCall(Protocol):
    """One call, as its transport knows it; grpc.aio's own servicer context is one.

    Use it only while its method runs.
    """

    # What the caller sent

    def invocation_metadata(self) -> tuple[Pair, ...]:
        """The request's metadata, as `Metadatum` or grpc's own like it.

        Keys are in lower case; values of keys that end in `-bin` are bytes.
        """
        ...

    def peer(self) -> str:
        """The caller's address, as `ipv4:127.0.0.1:50312`."""
        ...

    def peer_identities(self) -> Iterable[bytes] | None:
        """As in grpc."""
        ...

    def peer_identity_key(self) -> str | None:
        """As in grpc."""
        ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """As in grpc: empty without TLS."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below 0; None without one."""
        ...

    def read(self) -> Awaitable[Any]:
        """The next request's bytes; `grpc.aio.EOF` after the last one, and ever after.

        A stream that breaks off does not end: its method is cancelled. So no half of an upload
        passes for the whole. Reading gives the caller room to send: who does not read holds it up.
        """
        ...

    # What the caller gets

    def send_initial_metadata(self, initial_metadata: tuple[Pair, ...]) -> Awaitable[None]:
        """Send it now; otherwise it goes, empty, with the first response or the status.

        Raises:
            UsageError: It was sent already.
            CallerGone: As `write`.
        """
        ...

    def write(self, message: bytes) -> Awaitable[None]:
        """Send one response; wait while the caller does not read, and hold only little back.

        Raises:
            CallerGone: The call is over for its caller (`pymicro.rpc.grpcio`).
            AbortError: The status was sent by `abort`.
        """
        ...

    def abort(self, code: Any, details: str, trailing_metadata: tuple[Pair, ...]) -> Awaitable[NoReturn]:
        """Send a status that is not OK, and raise what the method must end with.

        Empty details or metadata mean those that were set.

        Raises:
            AbortError: It was sent. The transport takes this exception for the end of the method.
            CallerGone: It could not be sent, because the caller has gone.
            UsageError: A status was sent before.
        """
        ...

    def set_code(self, code: Any) -> None:
        """Set the status for a method that returns; OK if nobody does. An enum or its number."""
        ...

    def set_details(self, details: str) -> None:
        """Set the text that goes with the code."""
        ...

    def set_trailing_metadata(self, trailing_metadata: tuple[Pair, ...]) -> None:
        """Replace the metadata that goes with the status."""
        ...

    def code(self) -> Any:
        """The code set so far; None if none was."""
        ...

    def details(self) -> str:
        """The text set so far."""
        ...

    def trailing_metadata(self) -> tuple[Pair, ...]:
        """The metadata set so far."""
        ...

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress the responses so, if the caller takes it; before anything was sent."""
        ...

    def disable_next_message_compression(self) -> None:
        """Send the next response as it is."""
        ...

    # Its end

    def done(self) -> bool:
        """Whether the status has been sent, or is being sent."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this object once the method has ended, whatever its end was."""
        ...


class CallDetails(Protocol):
    """What is known of a call before it is served; the names are grpc's.

    Attributes:
        method: The path, `/package.Service/ServedMethod`.
        invocation_metadata: As `ServedCall.invocation_metadata`.
    """

    method: str
    invocation_metadata: tuple[Pair, ...]


Run = Callable[[Any, ServedCall], Coroutine[Any, Any, Any]]


class ServedMethod:
    """One method, in bytes.

    Attributes:
        shape: Which sides stream.
        run: Serves one call: takes the request's bytes, or None if they are streamed, which
            `ServedCall.read` reads. Returns the response's bytes, or None if they are streamed,
            which `ServedCall.write` has sent by then. A response is not sent if a code other
            than OK was set. It raises only what says that nothing is left to send: AbortError,
            CallerGone and other errors of grpc.aio's, or CancelledError.
        native: What a transport made of this method at its first call, for its own use.
    """

    __slots__ = ("native", "run", "shape")

    def __init__(self, shape: Shape, run: Run) -> None:
        self.shape = shape
        self.run = run
        self.native: Any = None


class ServedMethods(Protocol):
    """All that a server serves."""

    def find(self, details: CallDetails) -> ServedMethod:
        """The method for a call, at once; for an unknown path, one that refuses."""
        ...


class ServerTransport(Protocol):
    """Accepts calls and runs their methods, each in a task of its own.

    When a caller has gone (it cancelled, its deadline has passed, its connection broke), the
    transport cancels the task, unless the status was sent before.
    """

    @property
    def ping_interval(self) -> str:
        """The shortest interval that it permits between a client's pings, as a node tells it; or empty."""
        ...

    async def listen(
        self, address: str, methods: ServedMethods, identity: IdentityKeeper | None = None
    ) -> tuple[str, int]:
        """Take an address, `host:port`; calls wait until `start`. May be called for several.

        Args:
            address: What to take.
            methods: What is served there.
            identity: Entered, and with a certificate; it is shown to whoever connects. None for plain text.

        Returns:
            The host and the real port.

        Raises:
            ConfigError: The address is malformed, or its host does not resolve.
            StartError: It cannot be bound.
        """
        ...

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        """Run calls.

        Args:
            broken: Called if it can accept calls no more, though nobody stopped it.
        """
        ...

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, wait `grace` seconds for those in progress, then cancel the rest.

        May be called again with less grace. The addresses are free afterwards.
        """
        ...

    def has_cancelled(self, task: asyncio.Task[Any]) -> bool:
        """Whether the caller whose method runs in this task has gone, so that the task was cancelled.

        A handler, or whoever got hold of its task, can cancel it as well.
        """
        ...
