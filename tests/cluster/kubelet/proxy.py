"""ClusterIPs: a connection to one goes to a ready pod, chosen at random when it is opened.

In this process and not by packet rules, as kube-proxy's first mode was: it needs no packet filter on the
machine. What a client sees is the same: one pod for the life of a connection, whatever becomes of the
pod's readiness, and a refused connection where no pod is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable

from tests.cluster.kubelet.services import Address, Backends

log = logging.getLogger("kubelet.proxy")

CONNECT_TIMEOUT = 5.0


class Proxy:
    """Listeners on the ClusterIPs of the Services that have ready pods."""

    def __init__(self) -> None:
        self._targets: dict[Address, frozenset[Address]] = {}
        self._listeners: dict[Address, asyncio.Server] = {}
        self._changed = asyncio.Event()

    def update(self, services: Iterable[Backends]) -> None:
        """The Services as they are now."""
        self._targets = {
            (service.ip, port): targets
            for service in services
            if service.ip
            for port, targets in service.ports.items()
            if targets
        }
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for address in self._listeners.keys() - self._targets.keys():
                self._listeners.pop(address).close()
            for address in self._targets.keys() - self._listeners.keys():
                self._listeners[address] = await self._listen(address)

    async def _listen(self, address: Address) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            targets = self._targets.get(address)
            try:
                if targets:
                    await connect(random.choice(sorted(targets)), reader, writer)
            finally:
                # Without a pod, or when either side is gone: at once, like a packet that nobody takes.
                writer.transport.abort()

        return await asyncio.start_server(accept, *address)


async def connect(target: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes to and fro, until both directions have ended or one has broken."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            up_reader, up_writer = await asyncio.open_connection(*target)
    except (OSError, TimeoutError) as exc:
        log.info("no connection to %s:%s: %r", *target, exc)
        return
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(reader, up_writer))
            group.create_task(copy(up_reader, writer))
    except* OSError:
        pass
    finally:
        up_writer.transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, its end included."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
        await writer.drain()
