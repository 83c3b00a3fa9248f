"""grpc.health.v1: Check, Watch and List.

Written on the package's messages and not on its servicer, which says SERVING
from construction, lacks List, and whose Watch breaks under interceptors that
iterate: it is a coroutine that writes.
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
    """The health of the server ("") and of each proto service, which stand and fall together.

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
        """Whether it says SERVING."""
        return bool(self._status == _Response.SERVING)

    def set_serving(self, serving: bool) -> None:
        """Say SERVING or NOT_SERVING from now on, to watchers too."""
        self._status = _Response.SERVING if serving else _Response.NOT_SERVING
        self._notify()

    def end(self) -> None:
        """Say NOT_SERVING for good and end every watch, after it has said so."""
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
                continue  # it may have changed while the caller was slow to read
            if self._ended:
                return
            await changed.wait()

    def _notify(self) -> None:
        # A new event for each change: nobody misses one, nobody has to clear it.
        self._changed.set()
        self._changed = asyncio.Event()


class _HealthServiceWithList(HealthService):
    @handler
    async def list(self, request: Any) -> Any:
        """The status of every service."""
        response = _Response(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, response))


def health_of(services: Iterable[str]) -> HealthService:
    """Health with List, where the installed grpcio-health-checking knows List."""
    # Without it the rpc is not in the proto either, so callers rightly hear UNIMPLEMENTED.
    return _HealthServiceWithList(services) if "List" in source.methods_by_name else HealthService(services)
