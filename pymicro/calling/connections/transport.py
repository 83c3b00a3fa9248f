"""The seam to the network: what calls need of a connection to one node.

`grpc_transport` implements it over grpc.aio. `tests/fakes/transport.py` implements it in
memory, without grpc's channels, and the tests of calls run over both.

Messages are bytes on this side of the seam; calls serialize and parse them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc.aio import Metadata

if TYPE_CHECKING:
    from pymicro.calling.connections.client_tls import Secured
    from pymicro.calling.connections.method import Method
    from pymicro.calling.connections.options import ChannelOptions
    from pymicro.nodes.node import Node
    from pymicro.settings.config import Config

__all__ = ["ClientTransport", "NetworkCall", "NodeConnection", "StartCall", "Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """How a call on a connection ended, as it came or as the transport made it.

    Attributes:
        code: The code; CANCELLED if this side cancelled the call.
        details: The text.
        initial: Initial metadata; empty if none came.
        trailing: Trailing metadata; empty if none came.
        debug: The transport's own account of the end; None if it has none.
    """

    code: grpc.StatusCode
    details: str
    initial: Metadata
    trailing: Metadata
    debug: str | None


class NetworkCall(Protocol):
    """One call on one connection.

    Once it has ended, its methods raise `grpc.aio.AioRpcError` if its status is not OK, and
    `asyncio.CancelledError` if this side cancelled it. What such an error says is not read:
    how the call ended is asked of its connection.

    A stream of responses has ended when its status is there and whoever reads has all responses,
    or there can be no more: it was cancelled, or its connection is lost.

    Cancelling the code that awaits one of its methods cancels the call.
    """

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(call)` when it has ended, or at once if it has; before awaiting code learns of it.

        It may be called more than once.
        """
        ...

    def cancel(self) -> bool:
        """End it now, and call its callbacks before this returns; False if it had ended."""
        ...

    def __await__(self) -> Generator[Any, None, bytes | None]:
        """The one response, where there is one; None if the peer ended the call OK without it.

        May be awaited several times.
        """
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """A stream of responses; asked for once, and read by one task at a time.

        What has arrived is read to its end, also if the call ends meanwhile.
        """
        ...

    async def write(self, request: bytes) -> None:
        """Send a request of a stream; returns when the transport takes the next one.

        Raises:
            asyncio.InvalidStateError: The call has ended.
        """
        ...

    async def done_writing(self) -> None:
        """There are no more requests.

        Raises:
            EndedBefore: The call has ended, but that has not been told yet (`pymicro.rpc.grpcio`).
        """
        ...

    async def initial_metadata(self) -> Metadata:
        """Initial metadata as soon as it is there; empty if the call ended without any."""
        ...

    async def wait_for_connection(self) -> None:
        """Return when the request's metadata has been sent."""
        ...


class StartCall(Protocol):
    """Starts calls of one method on one connection."""

    def __call__(
        self,
        request: bytes | None,
        /,
        *,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> NetworkCall:
        """Start one, without waiting.

        Args:
            request: The one request; None for a stream of them.
            timeout: Seconds to its deadline; None for none.
            metadata: Pairs that were checked, or None.
            credentials: Call credentials.
            compression: Of requests; None for the connection's default.
        """
        ...


class NodeConnection(Protocol):
    """A connection to one node, made again as often as it is lost."""

    def state(self, connect: bool = False) -> grpc.ChannelConnectivity:
        """Its state at this moment, by the transport's own account.

        Args:
            connect: Connect it if it is IDLE.
        """
        ...

    async def change(self, last: grpc.ChannelConnectivity) -> None:
        """Return when its state differs from `last`."""
        ...

    def bind(self, method: Method) -> StartCall:
        """What starts calls of `method` here."""
        ...

    def code(self, call: Any) -> grpc.StatusCode | None:
        """The code of an ended call of this connection; None if this is not its `last_word`."""
        ...

    async def last_word(self, call: Any) -> None:
        """Return when the transport knows how an ended call of this connection really ended."""
        ...

    def cancelled_here(self, call: Any) -> bool:
        """Whether this side ended a call whose code is CANCELLED."""
        ...

    def status(self, call: Any) -> Status:
        """All that is known of the end of an ended call of this connection, as of now."""
        ...

    async def close(self) -> None:
        """End the connection and its calls."""
        ...


class ClientTransport(Protocol):
    """Makes connections."""

    def open(
        self, node: Node, config: Config, options: ChannelOptions, secured: Secured | None = None
    ) -> NodeConnection:
        """A connection to `node`, which begins to connect when its state is asked so.

        Args:
            node: Where to connect to.
            config: All settings.
            options: Of the connection.
            secured: How it is encrypted, for as long as it lives; None for plain text.

        Raises:
            Exception: There can be no connection to such an address, or with such options.
        """
        ...
