"""What the parts of a call know of the method that it calls, and of the user's call object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    import grpc

    from pymicro.base.tasks import Tasks
    from pymicro.calling.call.deferred import Deferred
    from pymicro.calling.connections.method import Method

__all__ = ["Called", "Waiting"]


class Waiting(Protocol):
    """A user's call object whose real call starts later."""

    def begins_later(self, deferred: Deferred) -> None:
        """The real call will start later, for the first time or again."""
        ...

    def begun(self, call: Any) -> None:
        """The real call has started, for the first time or again on another node."""
        ...


class Called(Protocol):
    """One method on one channel, as `MultiCallable` is.

    Attributes:
        method: The method as a stub asks for it.
        callee: Service and method, for errors.
        call_type: Makes the call object that the user gets.
        drops: Whether the call is cancelled when nobody holds it any more.
        streams: Whether there is a stream of requests.
    """

    method: Method
    callee: str
    call_type: type[Any]
    drops: bool
    streams: bool

    @property
    def service(self) -> str:
        """The name that is looked up."""
        ...

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        ...

    @property
    def shape(self) -> Shape:
        """Which sides stream."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether the method may run twice, whatever a peer says of it."""
        ...

    @property
    def logged(self) -> bool:
        """Whether each call writes a line to the log."""
        ...

    @property
    def tasks(self) -> Tasks:
        """Where background work of its calls runs."""
        ...

    def elsewhere(self, path: str) -> Called:
        """The same object with another method's path."""
        ...

    def direct(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """Start a call inside all interceptors."""
        ...

    def refused(self, why: Exception) -> Any:
        """A call that has ended before it began: what it was given cannot be sent."""
        ...

    def defer(self, call: Waiting, begin: Callable[[], Awaitable[Any]], deadline: float | None) -> None:
        """Let `call` wait for what `begin` starts."""
        ...
