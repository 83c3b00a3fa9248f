"""What nodes say of their own health, where no registry says it.

A node that is not well leaves its registry. Addresses in a setting, or in the DNS, stay. So
clients that have them from there watch the health of each connected node, as gRPC's own clients
can ("Client-side health checking", gRFC A17), and call others while a node says NOT_SERVING.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import grpc

from pymicro.base.backoff import Backoff
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.tasks import Tasks
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.node_channel import NodeChannel
from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.shape import Shape

__all__ = ["NodeHealths"]

log = logger("pymicro.client")

_WATCH: Final = Method(Shape.UNARY_STREAM, "/grpc.health.v1.Health/Watch", None, None, False, shared=False)
# A request about the server as a whole: every field has its default.
_SERVER: Final = b""

# Seconds until a watch that ended is begun again on a connection that stands.
AGAIN, LONGEST = 1.0, 60.0


class NodeHealths:
    """Follows the health of one service's connected nodes.

    A node counts as well until it says NOT_SERVING on the connection that it has now. One that
    offers no health, or says anything else, is well.

    Args:
        tasks: Where the watches run.
        changed: Called when a node has said something new.

    Attributes:
        unwell: The keys of the nodes that said NOT_SERVING last.
    """

    def __init__(self, tasks: Tasks, changed: Callable[[], None]) -> None:
        self.unwell: set[str] = set()
        self._tasks = tasks
        self._changed = changed
        # By the node's key: its channel, how often that had been READY, and the watch of that connection.
        self._watches: dict[str, tuple[NodeChannel, int, asyncio.Task[None]]] = {}

    def follow(self, channels: Mapping[str, NodeChannel]) -> None:
        """Watch the nodes that are connected now, and no others; cheap if nothing has changed."""
        for key in [key for key in self._watches if not _connected(channels.get(key))]:
            self._end(key)
        for key, channel in channels.items():
            if not _connected(channel) or self._tasks.closed:
                continue
            watched, readies, _ = self._watches.get(key, (None, -1, None))
            if watched is not channel or readies != channel.readies:
                # A new connection may lead to another process, and the old one must be free to end.
                self._end(key)
                task = self._tasks.start(self._watch(key, channel), f"health of {channel.node.address}")
                self._watches[key] = channel, channel.readies, task

    def _end(self, key: str) -> None:
        self.unwell.discard(key)
        _, _, task = self._watches.pop(key, (None, 0, None))
        if task is not None:
            task.cancel()

    async def _watch(self, key: str, channel: NodeChannel) -> None:
        backoff = Backoff(AGAIN, LONGEST, floor=AGAIN / 2)
        while True:
            try:
                if await self._follow(key, channel) is grpc.StatusCode.UNIMPLEMENTED:
                    return
            except Exception as exc:
                # Whatever a node answers: its calls tell more of it than its health.
                log.debug("the health of %s cannot be watched: %s", key, excerpt(exc, 1000))
            await asyncio.sleep(backoff.next())

    async def _follow(self, key: str, channel: NodeChannel) -> grpc.StatusCode | None:
        """Follow one watch to its end; how it ended."""
        # Here, because a client that needs it has time, and one that does not need not load it.
        from grpc_health.v1.health_pb2 import HealthCheckResponse

        try:
            start = channel.bind(_WATCH)
        except RpcError:
            return None
        call = start(_SERVER, timeout=None, metadata=None, credentials=None, compression=None)
        try:
            async for answer in call:
                status = HealthCheckResponse.FromString(answer).status
                self._say(key, channel, status == HealthCheckResponse.NOT_SERVING)
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()
        return channel.connection.code(call) if channel.connection is not None else None

    def _say(self, key: str, channel: NodeChannel, unwell: bool) -> None:
        if unwell is (key in self.unwell):
            return
        if unwell:
            self.unwell.add(key)
        else:
            self.unwell.discard(key)
        node = channel.node
        log.debug("%s: node %s says %s", node.service, key, "NOT_SERVING" if unwell else "that it is well")
        self._changed()


def _connected(channel: NodeChannel | None) -> bool:
    return channel is not None and channel.pickable
