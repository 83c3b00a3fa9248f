"""How a call ended: the one value that everybody who asks is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AioRpcError, Metadata

from pymicro.base.tracebacks import own_frames
from pymicro.rpc.grpcio import LOCALLY_CANCELLED
from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.status import from_aio

if TYPE_CHECKING:
    from pymicro.calling.connections.transport import Status

__all__ = ["End"]

_OK = grpc.StatusCode.OK
_CANCELLED = grpc.StatusCode.CANCELLED
_UNKNOWN = grpc.StatusCode.UNKNOWN


@dataclass(slots=True)
class End:
    """How a call ended.

    Attributes:
        code: The code; UNKNOWN if code of the user's, an interceptor or an iterator of requests, failed.
        details: The text.
        initial: Initial metadata of the last attempt.
        trailing: Trailing metadata of the last attempt.
        debug: The transport's own account; None if it has none.
        make_error: Makes the exception for code that awaits the call; None if it succeeded.
            A peer's error is made anew each time: an exception that is kept holds, by its
            traceback, whoever awaited it. It is raised where it is made, in the function that the program's
            code has called: that is then the one frame of ours in its traceback.
        cancelled: Whether this side cancelled the call, or the transport's status says CANCELLED, as
            in grpc.aio. (`code` may be read out of a go-micro server's text.)
    """

    code: grpc.StatusCode = _OK
    details: str = ""
    initial: Metadata = field(default_factory=Metadata)
    trailing: Metadata = field(default_factory=Metadata)
    debug: str | None = None
    make_error: Callable[[], BaseException] | None = None
    cancelled: bool = False

    @classmethod
    def failed(cls, error: BaseException, callee: str, metadata: End | Status | None = None) -> End:
        """The end of a call that this exception ended.

        Args:
            error: What code that awaits the call gets; of a cancellation, another one.
            callee: Service and method, for errors that do not name them yet.
            metadata: Where to take metadata from, if the error has none.
        """
        if isinstance(error, asyncio.CancelledError):
            end = cls(_CANCELLED, LOCALLY_CANCELLED, make_error=asyncio.CancelledError, cancelled=True)
        elif isinstance(error, AioRpcError):
            if isinstance(error, RpcError) and error.callee is None:
                error.callee = callee
            end = cls(
                error.code(),
                error.details() or "",
                _pairs(error.initial_metadata()),
                _pairs(error.trailing_metadata()),
                error.debug_error_string(),
                lambda: _ours(error, callee).with_traceback(None),
                error.code() is _CANCELLED,
            )
        else:
            # Code of the program's own failed: its frames say where, and ours on the way there say nothing.
            frames = own_frames(error.__traceback__)
            end = cls(
                _UNKNOWN, f"{type(error).__name__}: {error}", make_error=lambda: error.with_traceback(frames)
            )
        if metadata is not None:
            end.initial = end.initial or metadata.initial
            end.trailing = end.trailing or metadata.trailing
        return end

    @classmethod
    async def of(cls, call: Any, callee: str) -> End:
        """The end of a call that may be anybody's, as far as its methods tell; waits for it."""
        code = await call.code()
        end = cls(
            code if isinstance(code, grpc.StatusCode) else _OK,
            await call.details() or "",
            _pairs(await call.initial_metadata()),
            _pairs(await call.trailing_metadata()),
            await call.debug_error_string(),
        )
        if call.cancelled():
            end.cancelled = True
            end.make_error = asyncio.CancelledError
        elif end.code is not _OK:
            end.make_error = lambda: from_aio(
                AioRpcError(end.code, end.initial, end.trailing, end.details, end.debug), callee=callee
            )
        return end


def _ours(error: AioRpcError, callee: str) -> RpcError:
    return error if isinstance(error, RpcError) else from_aio(error, callee=callee)


def _pairs(metadata: Any) -> Metadata:
    if isinstance(metadata, Metadata):
        return metadata
    return Metadata(*tuple(metadata or ()))
