"""What grpc.aio's programs add to a service, and pymicro's dispatch never sees."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

__all__ = ["Passing", "Thing"]


class Thing(grpc.GenericRpcHandler):
    """Serves `/other.Thing/Do`, in a form that only grpc.aio knows.

    Attributes:
        served: Each request.
    """

    def __init__(self) -> None:
        self.served: list[str] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._do) if details.method == "/other.Thing/Do" else None

    def _do(self, request: bytes, context: Any) -> bytes:
        self.served.append(request.decode())
        return b""


class Passing(grpc.aio.ServerInterceptor):
    """An interceptor that does nothing."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)
