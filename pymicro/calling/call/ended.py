"""A call that ended without ever reaching a node, in the shape of a grpc.aio call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
import grpc.aio

from pymicro.rpc.grpcio import ALREADY_FINISHED, LOCALLY_CANCELLED
from pymicro.rpc.status import RpcError

__all__ = ["Ended"]


class Ended:
    """Takes the underlying call's place: the call failed, was cancelled or has its response.

    Args:
        error: The exception to raise; `asyncio.CancelledError` for a local cancel;
            None if the call succeeded.
        response: The response, if an interceptor answered the call itself.
    """

    def __init__(self, error: BaseException | None = None, response: Any = None) -> None:
        self._error = error
        self._response = response

    def _raise(self) -> None:
        if isinstance(self._error, asyncio.CancelledError):
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._status() is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def time_remaining(self) -> float | None:
        return None

    def _status(self) -> grpc.StatusCode:
        if self._error is None:
            return grpc.StatusCode.OK
        if isinstance(self._error, asyncio.CancelledError):
            return grpc.StatusCode.CANCELLED
        return (
            self._error.code() if isinstance(self._error, grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
        )

    async def code(self) -> grpc.StatusCode:
        return self._status()

    async def details(self) -> str:
        if isinstance(self._error, asyncio.CancelledError):
            return LOCALLY_CANCELLED
        if isinstance(self._error, grpc.aio.AioRpcError):
            return self._error.details() or ""
        return "" if self._error is None else f"{type(self._error).__name__}: {self._error}"

    async def debug_error_string(self) -> str:
        return (isinstance(self._error, RpcError) and self._error.debug_error_string()) or ""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        found = isinstance(self._error, RpcError) and self._error.initial_metadata()
        return found or grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        found = isinstance(self._error, RpcError) and self._error.trailing_metadata()
        return found or grpc.aio.Metadata()

    async def wait_for_connection(self) -> None:
        self._raise()

    def __await__(self) -> Generator[Any, None, Any]:
        self._raise()
        return self._response
        yield  # makes this a generator, as __await__ must be

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._no_messages()

    async def _no_messages(self) -> AsyncIterator[Any]:
        self._raise()
        return
        yield

    async def read(self) -> Any:
        self._raise()
        return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        if isinstance(self._error, grpc.aio.AioRpcError):  # it never began: say why
            raise self._error
        raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def done_writing(self) -> None:
        """Nothing to do: there is nobody to tell."""
