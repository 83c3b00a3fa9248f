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

from pymicro.base.printable import excerpt
from pymicro.rpc.status import NotFound
from pymicro.serving.handlers.mark import handler

__all__ = ["LIVENESS", "HealthService", "source"]

# Who asks for this name asks whether the process answers at all. The word is Kubernetes' own
# ("Configure Liveness, Readiness and Startup Probes": `service: liveness` of a gRPC probe).
LIVENESS = "liveness"

_Response = health_pb2.HealthCheckResponse

source = health_pb2.DESCRIPTOR.services_by_name["Health"]


class HealthService:
    """The health of the server ("") and of each proto service; all have the same status.

    They are SERVING while the server serves and is well. `liveness` is SERVING as long as
    somebody answers: a process that is not well would not be better after a restart.

    Args:
        services: Full names of the proto services.

    Attributes:
        serving: Whether the server serves, well or not.
    """

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._followers = {"", *services}
        self._names = sorted({*self._followers, LIVENESS})
        self.serving = False
        self._well = True
        self._ended = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Serve from now on, or do not; tell watchers too."""
        self.serving = serving
        self._notify()

    def set_well(self, well: bool) -> None:
        """Be well from now on, or do not; tell watchers too."""
        self._well = well
        self._notify()

    def end(self) -> None:
        """Say NOT_SERVING for good, and end every watch once it has said so."""
        self._ended = True
        self.set_serving(False)

    @property
    def ready(self) -> bool:
        """Whether the server serves and is well: what "" says."""
        return self.serving and self._well

    def _status(self, name: str) -> Any:
        """The status of a name that is known."""
        if name in self._followers and not self.ready:
            return _Response.NOT_SERVING
        return _Response.SERVING

    @handler
    async def check(self, request: Any) -> Any:
        """The status of one service, at once."""
        if request.service not in self._names:
            raise NotFound(f"no service {excerpt(request.service)} here: {', '.join(self._names)}")
        return _Response(status=self._status(request.service))

    @handler
    async def watch(self, request: Any) -> AsyncIterator[Any]:
        """The status of one service, now and whenever it changes."""
        last = None
        while True:
            changed = self._changed
            known = request.service in self._names
            status = self._status(request.service) if known else _Response.SERVICE_UNKNOWN
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
        statuses = {name: _Response(status=self._status(name)) for name in self._names}
        return health_pb2.HealthListResponse(statuses=statuses)


def health_of(services: Iterable[str]) -> HealthService:
    """Health with List, if the installed grpcio-health-checking knows List."""
    # Otherwise the proto does not have the rpc either, so callers rightly get UNIMPLEMENTED.
    return _HealthServiceWithList(services) if "List" in source.methods_by_name else HealthService(services)
