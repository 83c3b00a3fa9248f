"""grpc.health.v1: Check, Watch and List.

We use the package's messages but not its servicer: that one says SERVING from
construction, lacks List, and its Watch is a coroutine that writes, which breaks
under interceptors that iterate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2

from pymicro.rpc.status import NotFound
from pymicro.serving.handlers.mark import handler

__all__ = ["HealthService", "source"]

_Response = health_pb2.HealthCheckResponse

source = health_pb2.DESCRIPTOR.services_by_name["Health"]


class HealthService:
    """The health of the server ("") and of each proto service; all have the same status.

    Args:
        services: Full names of the proto services.
    """

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._services = {"", *services}
        self._status = _Response.NOT_SERVING
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the status is SERVING."""
        return bool(self._status == _Response.SERVING)

    def set_serving(self, serving: bool) -> None:
        """Say SERVING or NOT_SERVING from now on; tell watchers too."""
        self._status = _Response.SERVING if serving else _Response.NOT_SERVING
        self._notify()

    def end(self) -> None:
        """Say NOT_SERVING for good, and end every watch once it has said so."""
        self._ended = True
        self.set_serving(False)

    @handler
    async def check(self, request: Any) -> Any:
        """The status of one service, at once."""
        if request.service not in self._services:
            raise NotFound(f"no service {request.service[:200]!r} here: {', '.join(sorted(self._services))}")
        return _Response(status=self._status)

    @handler
    async def watch(self, request: Any) -> AsyncIterator[Any]:
        """The status of one service, now and whenever it changes."""
        last = None
        while True:
            changed = self._changed
            known = request.service in self._services
            status = self._status if known else _Response.SERVICE_UNKNOWN
            if status != last:
                yield _Response(status=status)
                last = status
                continue  # the status may have changed while the caller was slow to read
            if self._ended:
                return
            await changed.wait()

    def _notify(self) -> None:
        # Each change makes a new event: nobody misses one, and nobody has to clear it.
        self._changed.set()
        self._changed = asyncio.Event()


class _HealthServiceWithList(HealthService):
    @handler
    async def list(self, request: Any) -> Any:
        """The status of every service."""
        response = _Response(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, response))


def health_of(services: Iterable[str]) -> HealthService:
    """Health with List, if the installed grpcio-health-checking knows List."""
    # Otherwise the proto does not have the rpc either, so callers rightly get UNIMPLEMENTED.
    return _HealthServiceWithList(services) if "List" in source.methods_by_name else HealthService(services)
