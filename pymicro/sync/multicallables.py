"""What a synchronous stub holds for each method: an object that makes calls of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from pymicro.base.copies import NotCopied
from pymicro.calling.call.called import Called
from pymicro.sync.calls import SyncCall, SyncStream, wait_for_end
from pymicro.sync.fed import FedRequests
from pymicro.sync.under_way import UnderWay

if TYPE_CHECKING:
    from pymicro.sync.thread import LoopUser

    _UnaryUnary = grpc.UnaryUnaryMultiCallable[Any, Any]
    _UnaryStream = grpc.UnaryStreamMultiCallable[Any, Any]
    _StreamUnary = grpc.StreamUnaryMultiCallable[Any, Any]
    _StreamStream = grpc.StreamStreamMultiCallable[Any, Any]
else:  # at run time grpc's are no generic classes
    _UnaryUnary = grpc.UnaryUnaryMultiCallable
    _UnaryStream = grpc.UnaryStreamMultiCallable
    _StreamUnary = grpc.StreamUnaryMultiCallable
    _StreamStream = grpc.StreamStreamMultiCallable

__all__ = ["SyncStreamStream", "SyncStreamUnary", "SyncUnaryStream", "SyncUnaryUnary"]

# Requests of a stream that are made before the network asks for them: the thread that makes them
# and the loop meet once for several.
AHEAD = 8


C = TypeVar("C", bound=SyncCall)


class _Starter(NotCopied):
    """Starts calls of one method.

    Args:
        channel: The synchronous channel.
        whole: The asynchronous multicallable, in messages.
        raw: The same with requests in bytes; None where interceptors want to see messages.
    """

    def __init__(self, channel: LoopUser, whole: Any, raw: Callable[..., Any] | None) -> None:
        self._channel = channel
        self._whole: Called = whole
        self._start_whole: Callable[..., Any] = whole
        self._raw = raw

    def _start(self, request: Any, options: dict[str, Any], kind: type[C], *, tell: bool) -> C:
        """Start a call; what cannot be serialized is a TypeError here and now.

        Whatever interrupts this, the call is cancelled, for nobody holds it then.

        Args:
            kind: Of the object that holds the call from its beginning on.
            tell: Whether anybody can ask for the status of a call that ended OK.
        """
        called, raw = self._whole, self._raw
        thread = self._channel.opened()
        if options["metadata"] is not None:
            options["metadata"] = tuple(options["metadata"])  # what is iterated over belongs to this thread
        feed = None
        if called.streams:
            # Without bytes there is nothing to make ahead: the last request may still be looked at.
            serialize, ahead = (called.method.serialize, AHEAD) if raw is not None else (_as_it_is, 0)
            request = feed = FedRequests(iter(request), serialize, thread, ahead)
        elif raw is not None:
            request = called.method.serialize(request)
        call = UnderWay(thread, called, tell=tell, feed=feed)
        held = kind(call)
        if feed is None:
            call.begin(raw or self._start_whole, request, options)
            return held
        feed.start(called.path)
        try:
            call.begin(raw or self._start_whole, request, options)
        except BaseException:
            feed.close()
            raise
        return held

    def _ended(self, request: Any, options: dict[str, Any], *, tell: bool) -> tuple[UnderWay, SyncCall]:
        """Make a call and wait for its end, however it ends."""
        held = self._start(request, options, SyncCall, tell=tell)
        return wait_for_end(held), held


def _as_it_is(request: Any) -> Any:
    return request


def _options(
    timeout: float | None = None,
    metadata: Iterable[tuple[str, str | bytes]] | None = None,
    credentials: grpc.CallCredentials | None = None,
    wait_for_ready: bool | None = None,
    compression: grpc.Compression | None = None,
) -> dict[str, Any]:
    return {
        "timeout": timeout,
        "metadata": metadata,
        "credentials": credentials,
        "wait_for_ready": wait_for_ready,
        "compression": compression,
    }


class _OneAnswer(_Starter):
    """The methods with one response: a call of them waits for it."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Make a call and return its response; raise the error that it ended with."""
        options = _options(timeout, metadata, credentials, wait_for_ready, compression)
        call, _ = self._ended(request, options, tell=False)
        if call.error is not None:
            raise call.failure()
        return call.response

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, SyncCall]:
        """The same, with the call beside the response, for its metadata."""
        options = _options(timeout, metadata, credentials, wait_for_ready, compression)
        call, held = self._ended(request, options, tell=True)
        if call.error is not None:
            raise call.failure()
        return call.response, held

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> SyncCall:
        """Start a call and do not wait for it."""
        options = _options(timeout, metadata, credentials, wait_for_ready, compression)
        return self._start(request, options, SyncCall, tell=True)


class _ManyAnswers(_Starter):
    """The methods with a stream of responses."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> SyncStream:
        """Start a call, and iterate over its responses."""
        options = _options(timeout, metadata, credentials, wait_for_ready, compression)
        return self._start(request, options, SyncStream, tell=True)


class SyncUnaryUnary(_OneAnswer, _UnaryUnary):  # type: ignore[misc] # grpc's types say other futures
    """`stub.Method(request)`."""


class SyncUnaryStream(_ManyAnswers, _UnaryStream):  # type: ignore[misc]
    """`for response in stub.Method(request)`."""


# Requests that stream have another name, which callers may use.


class SyncStreamUnary(_OneAnswer, _StreamUnary):
    """`stub.Method(requests)`."""

    def __call__(  # type: ignore[override]
        self, request_iterator: Any, *arguments: Any, **options: Any
    ) -> Any:
        """Make a call and return its response; raise the error that it ended with."""
        call, _ = self._ended(request_iterator, _options(*arguments, **options), tell=False)
        if call.error is not None:
            raise call.failure()
        return call.response

    def with_call(  # type: ignore[override]
        self, request_iterator: Any, *arguments: Any, **options: Any
    ) -> tuple[Any, SyncCall]:
        """The same, with the call beside the response, for its metadata."""
        call, held = self._ended(request_iterator, _options(*arguments, **options), tell=True)
        if call.error is not None:
            raise call.failure()
        return call.response, held

    def future(self, request_iterator: Any, *arguments: Any, **options: Any) -> SyncCall:  # type: ignore[override]
        """Start a call and do not wait for it."""
        return super().future(request_iterator, *arguments, **options)


class SyncStreamStream(_ManyAnswers, _StreamStream):
    """`for response in stub.Method(requests)`."""

    def __call__(  # type: ignore[override]
        self, request_iterator: Any, *arguments: Any, **options: Any
    ) -> SyncStream:
        """Start a call, and iterate over its responses."""
        return super().__call__(request_iterator, *arguments, **options)
