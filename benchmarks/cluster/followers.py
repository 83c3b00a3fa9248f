"""The followers' processes, and what they have seen."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from benchmarks.greeter import ROOT

__all__ = ["Follower"]

# Ten thousand model objects take some clients half a minute.
SYNC_TIMEOUT = 180.0


class Follower:
    """A process of `benchmarks.cluster.follower`, in step with the API server once entered.

    Attributes:
        synced: Seconds of the first sync.
        count: Pods it found.
        grown: MB over its imports.
        blocked: The longest time its loop stood still in the first sync, in seconds.
        seen: When it saw each last change, by (`came` or `left`, address).
    """

    def __init__(self, kind: str, *where: str) -> None:
        self.kind = kind
        self._where = where
        self.synced = self.grown = self.blocked = 0.0
        self.count = 0
        self.seen: dict[tuple[str, str], float] = {}
        self._news = asyncio.Event()
        self._cpu: asyncio.Queue[float] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.cluster.follower",
            self.kind,
            *self._where,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        try:
            async with asyncio.timeout(SYNC_TIMEOUT):
                await self._line()
                first = await self._line()
        except BaseException:
            await self._end()
            raise
        self.synced, self.count = first["synced"], first["count"]
        self.grown, self.blocked = first["grown"], first["blocked"]
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._end()

    async def cpu(self) -> float:
        """CPU seconds the process has used, all its threads together."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(60):
            return await self._cpu.get()

    async def wait_for(self, wanted: Collection[tuple[str, str]], timeout: float) -> None:
        """Until every change in `wanted` has been seen.

        Raises:
            TimeoutError: Some were not; says how many.
        """
        try:
            async with asyncio.timeout(timeout):
                while missing := [key for key in wanted if key not in self.seen]:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.kind} missed {len(missing)} of {len(wanted)} changes") from None

    async def _line(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the follower {self.kind} ended with exit code {await self._process.wait()}; "
                "its output above says why"
            )
        return json.loads(line)

    async def _read(self) -> None:
        while True:
            found = await self._line()
            if "cpu" in found:
                self._cpu.put_nowait(found["cpu"])
                continue
            for direction in ("came", "left"):
                for address in found[direction]:
                    self.seen[direction, address] = found["at"]
            self._news.set()

    async def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
