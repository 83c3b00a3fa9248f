"""A stream of bytes as lines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from pymicro.kubernetes.api.errors import KubeError

__all__ = ["LONGEST_LINE", "Lines"]

# An object is at most 1.5 MiB in etcd, and JSON may write a byte as six. A longer line is no
# event, and we must notice that before it takes all memory.
LONGEST_LINE = 16 << 20


class Lines(AsyncIterator[bytes]):
    """The lines of a response, without their ends; empty ones are left out.

    Reading buffered lines never suspends: a loop over them must let the event loop turn
    itself (`pymicro.base.turns`).

    Args:
        read: Waits for bytes and returns those that have arrived; returns nothing at the end.
        what: Names the stream in errors.
        idle_timeout: Seconds without a byte after which it counts as dead, whatever
            TCP says of the connection; may be changed between two lines.
        longest: The longest line, in bytes.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        what: str,
        idle_timeout: float,
        longest: int = LONGEST_LINE,
    ) -> None:
        self._read = read
        self._what = what
        self.idle_timeout = idle_timeout
        self._longest = longest
        self._ready: deque[bytes] = deque()
        # The parts of a line whose end has not come yet. A long line has many, so they are
        # joined only once.
        self._parts: list[bytes] = []
        self._size = 0

    async def __anext__(self) -> bytes:
        """The next line.

        Raises:
            KubeError: Nothing came in time, the stream ended within a line, or a line is too long.
        """
        while not self._ready:
            await self._more()
        return self._ready.popleft()

    async def _more(self) -> None:
        try:
            async with asyncio.timeout(self.idle_timeout):
                chunk = await self._read()
        except TimeoutError:
            raise KubeError(
                f"{self._what}: not a byte came in {self.idle_timeout:g} s", kind="idle"
            ) from None
        if not chunk:
            if self._parts:
                raise KubeError(f"{self._what}: it ended in the middle of a line", kind="cut")
            raise StopAsyncIteration
        end = chunk.rfind(b"\n")
        if end >= 0:
            self._parts.append(chunk[:end])
            whole, self._parts, self._size = b"".join(self._parts), [], 0
            chunk = chunk[end + 1 :]
            self._ready.extend(line for line in whole.split(b"\n") if line)
        if chunk:
            self._parts.append(chunk)
            self._size += len(chunk)
            if self._size > self._longest:
                raise KubeError(
                    f"{self._what}: a line is longer than {self._longest} bytes", kind="malformed"
                )
