"""A program that wants to know what Prometheus has of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import prometheus_client
from prometheus_client.metrics_core import Metric

__all__ = ["Scrapes"]

# Seconds to wait for a scrape; only a failure waits so long.
PATIENCE = 20.0


class Scrapes:
    """Notices that this process is scraped. Made in the event loop, once.

    It is one of the program's own collectors, which are asked after pymicro's metrics were written.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()
        prometheus_client.REGISTRY.register(self)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self._next.set()
        return ()

    async def whole(self) -> None:
        """Wait until a scrape is over that began after this was called."""
        # The first may have begun before, and the third begins when the second is over.
        for _ in range(3):
            self._next.clear()
            async with asyncio.timeout(PATIENCE):
                await self._next.wait()
