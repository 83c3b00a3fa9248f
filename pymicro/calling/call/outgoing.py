"""A call as client interceptors of our own form see it (`pymicro.rpc.interceptors` has the form)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.calling.call.requests import asynchronous
from pymicro.rpc.interceptors import Mapper, apply, mapped
from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["OutgoingCall"]


class OutgoingCall:
    """A call as a client interceptor sees it, and may change it before `proceed()`.

    Where requests and response are one message each, `proceed()` may be called again:
    each time makes another call, and the call's metadata are those of the last one.

    Attributes:
        service: The name that is looked up.
        method: `/package.Service/Method`.
        shape: Which sides stream.
        metadata: The request's metadata (`grpc.aio.Metadata`); add to it or replace it.
        timeout: Seconds for the whole call, from its begin; None for no limit. If it is
            changed, it counts from `proceed()`.
        credentials: Call credentials, if any.
        wait_for_ready: Whether to wait for a node if there is none.
    """

    def __init__(self, called: Called, details: grpc.aio.ClientCallDetails, request: Any) -> None:
        self.service = called.service
        self.method = called.path
        self.shape: Shape = called.shape
        self.metadata = grpc.aio.Metadata(*(details.metadata or ()))
        self.timeout = details.timeout
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self._request = request
        self._request_maps: list[Mapper] = []
        self._response_maps: list[Mapper] = []

    def map_requests(self, mapper: Mapper) -> None:
        """See or replace every request: `mapper(message) -> message`, or a coroutine function."""
        self._request_maps.append(mapper)

    def map_responses(self, mapper: Mapper) -> None:
        """See or replace every response: `mapper(message) -> message`, or a coroutine function."""
        self._response_maps.append(mapper)

    def _details(self) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            self.method.encode(),  # type: ignore[arg-type] # these are bytes, as in grpc.aio
            self.timeout,
            self.metadata,
            self.credentials,
            self.wait_for_ready,
        )

    async def _requests(self) -> Any:
        if not self._request_maps:
            return self._request
        if not self.shape.request_streaming:
            return await apply(self._request_maps, self._request)
        return mapped(tuple(self._request_maps), asynchronous(self._request))
