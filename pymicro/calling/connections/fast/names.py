"""Connections to all addresses behind a name, as a headless Service has them; calls take them in turn."""

from __future__ import annotations

import asyncio
import socket
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from pymicro.calling.connections.fast.calls import CallStarter
from pymicro.calling.connections.fast.connection import FastConnection, told

if TYPE_CHECKING:
    from pymicro.calling.connections.fast.arguments import Arguments
    from pymicro_fast import Session

__all__ = ["NamedConnections"]

_IDLE = grpc.ChannelConnectivity.IDLE
_CONNECTING = grpc.ChannelConnectivity.CONNECTING
_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN

# Seconds between two look-ups, as the options of channels over grpc.aio have it.
_BETWEEN = 5.0


class NamedConnections(CallStarter):
    """See `NodeConnection`. The name is looked up when it connects, and again when a connection ends."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._members: dict[tuple[str, int], FastConnection] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._looking: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._looked = float("-inf")

    def connect(self) -> None:
        """See `CallStarter`."""
        self.become(_CONNECTING)
        self._look()

    def _look(self) -> None:
        """Look the name up now, or when that is allowed again."""
        if self._looking is not None or self._again is not None or self.closing:
            return
        due = self._looked + _BETWEEN
        if self.loop.time() < due:
            self._again = self.loop.call_at(due, self._look_now, context=Context())
        else:
            self._look_now()

    def _look_now(self) -> None:
        self._again = None
        self._looked = self.loop.time()
        self._looking = self.loop.create_task(
            self._resolve(), name=f"looking up {self.arguments.host}", context=Context()
        )

    async def _resolve(self) -> None:
        arguments = self.arguments
        try:
            found = await self.loop.getaddrinfo(arguments.host, arguments.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            self.reason = getattr(exc, "strerror", None) or str(exc)
            if not self._members:
                self.become(_FAILED)
            self._looking = None
            self._look()
            return
        self._looking = None
        addresses = {(str(address[0]), int(address[1])) for *_, address in found}
        for gone in self._members.keys() - addresses:
            self._leave(self._members.pop(gone))
        for host, port in addresses - self._members.keys():
            member = FastConnection(replace(arguments, host=host, port=port))
            self._members[host, port] = member
            member.listen(self._heard)
        for member in list(self._members.values()):
            member.state(True)
        self._heard()

    def _leave(self, member: FastConnection) -> None:
        member.listen(None)
        leaving = self.loop.create_task(member.drain(), name="leaving an address", context=Context())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _heard(self) -> None:
        """Something has changed at a member."""
        if self.closing:
            return
        states = set()
        for member in self._members.values():
            state = member.state()
            if state is _IDLE:
                self.reason = member.reason
                self._look()
                state = member.state(True)
            elif state is _FAILED:
                self.reason = member.reason
                self._look()
            states.add(state)
        for state in (_READY, _CONNECTING, _FAILED):
            if state in states:
                if state is not self._state:
                    self.become(state)
                break
        self.start_waiting()

    def free_session(self) -> Session | None:
        """See `CallStarter`; of the members, each in its turn."""
        members = list(self._members.values())
        for _ in members:
            self._turn += 1
            session = members[self._turn % len(members)].free_session()
            if session is not None:
                return session
        return None

    def unreachable(self) -> str:
        """See `CallStarter`."""
        return told(f"{self.arguments.authority}: {self.reason}", self.arguments)

    async def close(self) -> None:
        """See `NodeConnection`."""
        self.closing = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        tasks = set(self._leaving)
        if self._looking is not None:
            tasks.add(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.become(_SHUTDOWN)
        self.end_waiting()
        for member in self._members.values():
            member.listen(None)
            await member.close()
