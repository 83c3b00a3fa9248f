"""The calling side of grpc.health.v1: asks a node how it is.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from pymicro.base.errors import ConfigError
from pymicro.calling.connections.client_tls import ClientTls, Secured
from pymicro.calling.connections.grpc_transport import ChannelCredentials, explained
from pymicro.calling.connections.options import channel_arguments, dial_target
from pymicro.nodes.node import Node
from pymicro.rpc.status import RpcError, Unavailable
from pymicro.rpc.wire.status import from_aio
from pymicro.settings.config import Config

__all__ = ["NodeHealth", "check_health", "follow_health"]

_CHECK: Final = "/grpc.health.v1.Health/Check"
_WATCH: Final = "/grpc.health.v1.Health/Watch"


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """What a node says about its health.

    Attributes:
        status: `SERVING`, `NOT_SERVING`, `UNKNOWN` or `SERVICE_UNKNOWN`.
        seconds: How long the answer took on a connection that was already open.
    """

    status: str
    seconds: float

    @property
    def serving(self) -> bool:
        """Whether it takes calls."""
        return self.status == "SERVING"


async def check_health(
    node: Node, config: Config, tls: ClientTls | None = None, *, service: str = "", timeout: float = 3.0
) -> NodeHealth:
    """Ask a node for its health over a connection of its own, the way a call would reach it.

    Args:
        node: The node to ask; if its address is a name, any process that answers to it.
        config: The settings in force.
        tls: Says whether the connection is encrypted; None for plain text.
        service: Full name of a proto service; empty for the server as a whole.
        timeout: Seconds for connecting and asking together.

    Raises:
        RpcError: The node cannot be reached, does not answer in time, or answers with an
            error; UNIMPLEMENTED if it offers no health, NOT_FOUND if it has no such service.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    secured = _secured(node, tls)
    async with _open_channel(node, config, secured) as channel:
        await _check(channel, node, service, timeout, secured)  # connects
        return await _check(channel, node, service, max(0.0, deadline - loop.time()), secured)


async def follow_health(
    node: Node,
    config: Config,
    tell: Callable[[NodeHealth | RpcError], None],
    tls: ClientTls | None = None,
    *,
    service: str = "",
    timeout: float = 3.0,
    interval: float = 2.0,
) -> None:
    """Report a node's health again and again, until cancelled.

    It asks every `interval` seconds, which measures the time and finds a node
    that hangs. If the server offers `Watch`, it reports a change at once.

    Args:
        node: As for `check_health`.
        config: The settings in force.
        tell: Gets each answer, or the exception that `check_health` raises.
        tls: As for `check_health`.
        service: Full name of a proto service; empty for the server as a whole.
        timeout: Seconds for each question.
        interval: Seconds between two questions.
    """
    last = NodeHealth("UNKNOWN", math.nan)

    async def ask(channel: grpc.aio.Channel) -> None:
        nonlocal last
        while True:
            try:
                if channel.get_state() is not grpc.ChannelConnectivity.READY:
                    await _check(channel, node, service, timeout, secured)  # connects
                last = await _check(channel, node, service, timeout, secured)
                tell(last)
            except RpcError as exc:
                tell(exc)
            await asyncio.sleep(interval)

    async def watch(channel: grpc.aio.Channel) -> None:
        nonlocal last
        make_call = channel.unary_stream(
            _WATCH,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while True:
            call: Any = make_call(health_pb2.HealthCheckRequest(service=service))
            try:
                async for answer in call:
                    if not math.isnan(last.seconds):  # the first answer brings its own time
                        last = dataclasses.replace(last, status=_name_of(answer.status))
                        tell(last)
            except grpc.aio.AioRpcError as exc:
                # The task that asks reports why a node does not answer.
                if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
            finally:
                call.cancel()
            await asyncio.sleep(interval)

    while True:
        try:
            secured = _secured(node, tls)
            break
        except Unavailable as exc:
            tell(exc)
        await asyncio.sleep(interval)
    async with _open_channel(node, config, secured) as channel, asyncio.TaskGroup() as group:
        group.create_task(ask(channel), name=f"health of {node.address}: ask")
        group.create_task(watch(channel), name=f"health of {node.address}: watch")


def _secured(node: Node, tls: ClientTls | None) -> Secured | None:
    """How a connection to `node` is encrypted.

    Raises:
        Unavailable: There can be none.
    """
    try:
        return tls.of(node, node.service) if tls is not None else None
    except ConfigError as exc:
        raise Unavailable(f"node {node.id} cannot be connected to: {exc}", from_peer=False) from exc


def _open_channel(node: Node, config: Config, secured: Secured | None) -> grpc.aio.Channel:
    target, arguments = dial_target(node, secured), channel_arguments(config, node, (), secured)
    if secured is None:
        return grpc.aio.insecure_channel(target, arguments)
    return grpc.aio.secure_channel(target, ChannelCredentials().of(secured.identity), arguments)


async def _check(
    channel: grpc.aio.Channel, node: Node, service: str, timeout: float, secured: Secured | None
) -> NodeHealth:
    check: Any = channel.unary_unary(
        _CHECK,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    loop = asyncio.get_running_loop()
    asked = loop.time()
    try:
        answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
    except RpcError:
        raise
    except grpc.aio.AioRpcError as exc:
        told = grpc.aio.AioRpcError(
            exc.code(),
            exc.initial_metadata(),
            exc.trailing_metadata(),
            explained(exc.code(), exc.details() or "", secured),
            exc.debug_error_string(),
        )
        raise from_aio(told, node=node, callee=_CHECK) from exc
    return NodeHealth(_name_of(answer.status), loop.time() - asked)


def _name_of(status: int) -> str:
    known = health_pb2.HealthCheckResponse.ServingStatus.items()
    return next((name for name, number in known if number == status), f"status {status}")
