"""One service's objects in one namespace, from one watch of the API after another; none is lost between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.events import is_older
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.cluster.wanted import Source
from pymicro.nodes.node import Node

__all__ = ["Changeover", "WatchChooser"]

_Objects = Mapping[str, tuple[Node, ...]]


class WatchChooser(Protocol):
    """Says from which watch to take a service's objects.

    Attributes:
        size: How many there were at last.
    """

    size: int

    def sources(self) -> AsyncGenerator[Source, None]:
        """The watch to take: now, and whenever that changes.

        Raises:
            KubeError: It cannot be told, for the API server cannot be asked; ask again.
        """
        ...

    def failed(self, source: Source, error: KubeError) -> None:
        """A watch was chosen, and fails."""
        ...


class _Reading:
    """A watch that is read, perhaps only to see whether it can take over."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.reflector: Reflector[tuple[Node, ...]] | None = None
        self.task: asyncio.Task[None] | None = None


class Changeover:
    """Takes a service's objects from the watch that is chosen, and changes over without a gap.

    A watch that is chosen anew runs beside the one in use. It takes over when it has listed and
    is not behind: its version is at least the other's, so it knows all that the other has shown,
    and nothing that was gone comes back for a moment. Its first mapping replaces the other's as
    a whole, as a list anew would. Until then the other is in use, even if the new one fails.

    Args:
        chooser: Says which watch.
        reflectors: Where watches run.
        take: Called with the objects and their version: first, after each change, and when they
            were confirmed.
        fail: Called when the watch in use fails, or the first one.
    """

    def __init__(
        self,
        chooser: WatchChooser,
        reflectors: Reflectors,
        take: Callable[[_Objects, str], object],
        fail: Callable[[KubeError], object],
    ) -> None:
        self._chooser = chooser
        self._reflectors = reflectors
        self._take = take
        self._fail = fail
        self._used: _Reading | None = None
        self._next: _Reading | None = None
        # The version of what was taken last.
        self._version = ""

    async def run(self) -> None:
        """Do the work until cancelled, or until something fails that nobody thought of."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with aclosing(self._chooser.sources()) as sources:
                        async for source in sources:
                            self._choose(group, source)
                    raise RuntimeError("nobody chooses any more")
                except KubeError as exc:
                    self._fail(exc)

    def _choose(self, group: asyncio.TaskGroup, source: Source) -> None:
        if self._next is not None and self._next.task is not None:
            self._next.task.cancel()
            self._next = None
        if self._used is not None and self._used.source == source:
            return
        self._next = reading = _Reading(source)
        reading.task = group.create_task(self._read(reading), name=f"follow {source.query} ({source.part})")

    async def _read(self, reading: _Reading) -> None:
        source = reading.source
        limit = source.list_limit
        async with self._reflectors.use(source.query, source.split, list_limit=limit) as reflector:
            reading.reflector = reflector
            while True:
                try:
                    async with aclosing(reflector.follow(source.part)) as changes:
                        async for objects in changes:
                            self._took(reading, objects, reflector.version)
                    raise RuntimeError(f"the reflector of {source.query} ended")
                except KubeError as exc:
                    self._failed(reading, exc)

    def _took(self, reading: _Reading, objects: _Objects, version: str) -> None:
        if reading is self._next and self._may_take_over(version):
            old, self._used, self._next = self._used, reading, None
            if old is not None and old.task is not None:
                old.task.cancel()
        if reading is self._used:
            self._version = version or self._version
            self._chooser.size = len(objects)
            self._take(objects, version)

    def _may_take_over(self, version: str) -> bool:
        if self._used is None or self._used.reflector is None:
            return True
        # Without a version it is about to list anew, for what it shows may be old. And the objects
        # of the watch in use are as new as its version, though it may not have shown them yet.
        return bool(version) and not is_older(version, self._used.reflector.version or self._version)

    def _failed(self, reading: _Reading, error: KubeError) -> None:
        self._chooser.failed(reading.source, error)
        if reading is self._used or (reading is self._next and self._used is None):
            self._fail(error)
