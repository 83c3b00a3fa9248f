"""Nodes as real processes: started, told how to behave, killed, and asked what they did."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.processes import Process, Processes

__all__ = ["Execution", "Fleet", "Member", "addresses", "listed"]


@dataclass(frozen=True, slots=True)
class Execution:
    """A line of a node's journal.

    Attributes:
        at: `time.time()` of it.
        event: `begin`, `end`, or `fail` (the handler ran, and failed).
        call: The call's id.
        attempt: How many attempts the caller had made before this one.
        node: The node's name.
        pid: Its process.
    """

    at: float
    event: str
    call: str
    method: str
    attempt: int
    node: str
    pid: int


@dataclass(slots=True)
class Member:
    """A node: its name stays when its process is replaced by another."""

    name: str
    process: Process
    address: str
    service: str
    settings: dict[str, str]
    onward: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid


def addresses(members: Iterable[Member]) -> set[str]:
    """Where they are now."""
    return {member.address for member in members}


def listed(where: Iterable[str], service: str = "victim") -> dict[str, str]:
    """Settings of a client that is given the addresses, and never told of any change."""
    entries = ",".join(f"{service}={address}" for address in sorted(where))
    return {"registry": "static", "registry_address": entries}


class Fleet:
    """The nodes of one test, in one folder.

    Args:
        processes: Starts them and ends them after the test; names the registry's folder.
        folder: For journals and behaviours.
    """

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._made = 0

    async def start(
        self, count: int, *, service: str = "victim", onward: str = "", **settings: str
    ) -> list[Member]:
        """Start nodes and wait until they are registered; `settings` are environment variables."""
        members = []
        for _ in range(count):
            self._made += 1
            name = f"{service}-{self._made}"
            settings_now = dict(settings)
            process = self._launch(name, service, onward, settings_now)
            members.append(Member(name, process, "", service, settings_now, onward))
        for member in members:
            await self._registered(member)
        return members

    async def again(self, member: Member, *, same_address: bool = True) -> None:
        """Start a node that has ended anew, where it was or anywhere."""
        settings = dict(member.settings)
        if same_address:
            settings["MICRO_SERVER_ADDRESS"] = member.address
        else:
            settings.pop("MICRO_SERVER_ADDRESS", None)
        member.process = self._launch(member.name, member.service, member.onward, settings)
        await self._registered(member)

    def _launch(self, name: str, service: str, onward: str, settings: dict[str, str]) -> Process:
        argv = ["-m", "tests.chaos.node", str(self._folder), name, *([onward] if onward else [])]
        return self._processes.python(*argv, CHAOS_SERVICE=service, **settings)

    async def _registered(self, member: Member) -> None:
        line = await asyncio.to_thread(member.process.wait_for, r" on (\S+), registered")
        member.address = line[1]

    def behave(self, members: Iterable[Member], **behaviour: object) -> None:
        """From the next call on: `pause` seconds, `fail` with a status and `trailers`.

        Nothing named: as a good node does.
        """
        for member in members:
            path = self._folder / f"{member.name}.behaviour"
            new = path.with_suffix(".new")
            new.write_text(json.dumps(behaviour))
            new.replace(path)

    async def kill(self, member: Member) -> None:
        """SIGKILL, and wait for its end."""
        await asyncio.to_thread(member.process.kill)

    def freeze(self, member: Member) -> None:
        """SIGSTOP: its sockets stay open and its kernel answers; nobody else does."""
        os.kill(member.pid, signal.SIGSTOP)

    def thaw(self, member: Member) -> None:
        """SIGCONT."""
        os.kill(member.pid, signal.SIGCONT)

    def journal(self) -> list[Execution]:
        """What all nodes did, in the order of time."""
        found = []
        for path in self._folder.glob("*.journal"):
            node, pid, _ = path.name.rsplit(".", 2)
            for line in path.read_text().splitlines():
                at, event, call, method, attempt, _ = line.split("\t")
                found.append(Execution(float(at), event, call, method, int(attempt), node, int(pid)))
        return sorted(found, key=lambda execution: execution.at)
