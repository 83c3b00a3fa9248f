"""Statuses as exceptions: one class for each of gRPC's sixteen error codes.

Both ends use the same classes: a handler raises `NotFound("no such order")`, the
caller catches `NotFound`. They are `grpc.aio.AioRpcError` as well, so code
written for grpc.aio keeps working.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from grpc.aio import AioRpcError, Metadata

from pymicro.base.errors import PymicroError
from pymicro.base.printable import excerpt

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pymicro.nodes.node import Node

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "RpcError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "by_code",
    "text_of",
]

MetadataLike = Metadata | Iterable[tuple[str, str | bytes]] | None


def _metadata(value: MetadataLike) -> Metadata:
    if value is None:
        return Metadata()
    if isinstance(value, Metadata):
        return value
    return Metadata(*((key, item) for key, item in value))


def text_of(details: object) -> str:
    """Details as they may travel with a status; None, as grpc has it, is the empty text.

    Raises:
        TypeError: They are no text. An exception is refused too: its text may be
            more than the caller is meant to read.
    """
    if details is None:
        return ""
    if not isinstance(details, str):
        raise TypeError(f"the details of a status must be text (str), found {excerpt(details)}")
    return details


def _messages(given: Any) -> tuple[Message, ...]:
    if not given:
        return ()
    from google.protobuf.message import Message

    found = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(one, Message) for one in found):
        raise TypeError(f"error_details must be a sequence of protobuf messages, found {excerpt(given)}")
    return found


class RpcError(PymicroError, AioRpcError):
    """A call ended with another status than OK. Raise and catch the subclasses.

    Args:
        details: Text for the caller; it goes over the wire as it is.
        error_details: google.rpc messages (`google.rpc.error_details_pb2`) that
            travel with the status.
        trailing_metadata: Trailing metadata, sent or received.
        initial_metadata: Initial metadata received.
        debug_error_string: grpc-core's own account of what happened.
        node: The node the call went to, if it got that far.
        callee: `/package.Service/Method` on a service, for every error that came
            out of a call; None if a handler raised it.
        attempts: How many nodes the call was tried on; `node` is the last of them.
        from_peer: False if pymicro made the error on this side, True if only
            the peer can have made it, None if the two look alike.
        micro_id: The part that failed, as a go-micro server names it: by convention
            `service` or `service.Method`. None in errors of all others.
        micro_code: The HTTP status of such an error, or another number that its handler
            chose: 404 in a `NotFound`, 10001 in an `Unknown`.

    Raises:
        TypeError: `details` is no text, or `error_details` holds something that is no message.
    """

    status_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        details: str = "",
        *,
        error_details: Sequence[Message] = (),
        trailing_metadata: MetadataLike = None,
        initial_metadata: MetadataLike = None,
        debug_error_string: str | None = None,
        node: Node | None = None,
        callee: str | None = None,
        attempts: int = 1,
        from_peer: bool | None = None,
        micro_id: str | None = None,
        micro_code: int | None = None,
    ) -> None:
        if type(self) is RpcError:
            raise TypeError("raise one of RpcError's subclasses, such as pymicro.NotFound")
        AioRpcError.__init__(
            self,
            self.status_code,
            _metadata(initial_metadata),
            _metadata(trailing_metadata),
            text_of(details),
            debug_error_string,
        )
        self.error_details: tuple[Message, ...] = _messages(error_details)
        self.node = node
        self.callee = callee
        self.attempts = attempts
        self.from_peer = from_peer
        self.micro_id = micro_id
        self.micro_code = micro_code

    def __str__(self) -> str:
        text = f"{self.status_code.name}: {self.details()}"
        if self.callee:
            text += f" (calling {self.callee}"
            text += f" on {self.node.address}" if self.node else ""
            text += f", the last of {self.attempts} attempts)" if self.attempts > 1 else ")"
        return text

    def __repr__(self) -> str:
        extras = [
            f"{name}={value!r}"
            for name, value in (
                ("node", self.node and self.node.address),
                ("callee", self.callee),
                ("from_peer", self.from_peer),
                ("micro_id", self.micro_id),
                ("micro_code", self.micro_code),
            )
            if value is not None
        ]
        return f"{type(self).__name__}({', '.join([repr(self.details()), *extras])})"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "error_details": self.error_details,
            "trailing_metadata": tuple(self.trailing_metadata() or ()),
            "initial_metadata": tuple(self.initial_metadata() or ()),
            "debug_error_string": self.debug_error_string(),
            "node": self.node,
            "callee": self.callee,
            "attempts": self.attempts,
            "from_peer": self.from_peer,
            "micro_id": self.micro_id,
            "micro_code": self.micro_code,
        }
        return _rebuild, (type(self), self.details(), state)


def _rebuild(kind: type[RpcError], details: str, state: dict[str, Any]) -> RpcError:
    return kind(details, **state)


class Cancelled(RpcError):
    """CANCELLED by the peer; if this side cancels, `asyncio.CancelledError` is raised instead."""

    status_code = grpc.StatusCode.CANCELLED


class Unknown(RpcError):
    """UNKNOWN: the peer failed without saying how."""

    status_code = grpc.StatusCode.UNKNOWN


class InvalidArgument(RpcError):
    """INVALID_ARGUMENT: the request is wrong whatever state the system is in."""

    status_code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(RpcError):
    """DEADLINE_EXCEEDED: no answer in time; the call may have taken effect."""

    status_code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(RpcError):
    """NOT_FOUND: the thing asked for does not exist."""

    status_code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(RpcError):
    """ALREADY_EXISTS: the thing to create exists already."""

    status_code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(RpcError):
    """PERMISSION_DENIED: the caller is known but not allowed to do this."""

    status_code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(RpcError):
    """RESOURCE_EXHAUSTED: a quota, a limit or a message size is used up."""

    status_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(RpcError):
    """FAILED_PRECONDITION: the system's present state does not allow it; a retry will not help."""

    status_code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(RpcError):
    """ABORTED: a conflict; trying the whole transaction again may help."""

    status_code = grpc.StatusCode.ABORTED


class OutOfRange(RpcError):
    """OUT_OF_RANGE: past the end of something."""

    status_code = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(RpcError):
    """UNIMPLEMENTED: the peer has no such method."""

    status_code = grpc.StatusCode.UNIMPLEMENTED


class Internal(RpcError):
    """INTERNAL: something is broken on the serving side."""

    status_code = grpc.StatusCode.INTERNAL


class Unavailable(RpcError):
    """UNAVAILABLE: no peer can answer at present."""

    status_code = grpc.StatusCode.UNAVAILABLE


class DataLoss(RpcError):
    """DATA_LOSS: data is lost or corrupt for good."""

    status_code = grpc.StatusCode.DATA_LOSS


class Unauthenticated(RpcError):
    """UNAUTHENTICATED: the caller gave no valid proof of who it is."""

    status_code = grpc.StatusCode.UNAUTHENTICATED


_BY_CODE: dict[grpc.StatusCode, type[RpcError]] = {
    kind.status_code: kind for kind in RpcError.__subclasses__()
}


def by_code(code: grpc.StatusCode) -> type[RpcError]:
    """The class for a status code other than OK."""
    return _BY_CODE[code]
