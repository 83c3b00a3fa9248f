"""The calling side of grpc.health.v1: how one node is.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from pymicro.client.options import channel_arguments, dial_target
from pymicro.config import Config
from pymicro.node import Node
from pymicro.status import RpcError
from pymicro.wire.status import from_aio

__all__ = ["Health", "check_health"]

_CHECK: Final = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says of itself.

    Attributes:
        status: `SERVING`, `NOT_SERVING`, `UNKNOWN` or `SERVICE_UNKNOWN`.
        seconds: How long the answer took on a connection that was there.
    """

    status: str
    seconds: float

    @property
    def serving(self) -> bool:
        """Whether it takes calls."""
        return self.status == "SERVING"


async def check_health(node: Node, config: Config, *, service: str = "", timeout: float = 3.0) -> Health:
    """Ask a node for its health, over a connection of its own, as a call would reach it.

    Args:
        node: Whom to ask; of kind `name`, whoever answers to it.
        config: The settings in force.
        service: Full name of a proto service; empty for the server as a whole.
        timeout: Seconds for connecting and asking together.

    Raises:
        RpcError: It cannot be reached, does not answer in time, or with an error;
            UNIMPLEMENTED if it offers no health, NOT_FOUND if it has no such service.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    request = health_pb2.HealthCheckRequest(service=service)
    options = channel_arguments(config, node, ())
    async with grpc.aio.insecure_channel(dial_target(node), options=options) as channel:
        check: Any = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            await check(request, timeout=timeout)  # connects
            asked = loop.time()
            answer = await check(request, timeout=max(0.0, deadline - asked))
        except RpcError:
            raise
        except grpc.aio.AioRpcError as exc:
            raise from_aio(exc, node=node, callee=_CHECK) from exc
        seconds = loop.time() - asked
    return Health(_name_of(answer.status), seconds)


def _name_of(status: int) -> str:
    known = health_pb2.HealthCheckResponse.ServingStatus.items()
    return next((name for name, number in known if number == status), f"status {status}")
