"""Running a coroutine on the event loop the benchmark was asked to use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["LOOPS", "run"]

LOOPS = ("asyncio", "uvloop")


def run(main: Coroutine[Any, Any, Any], loop: str) -> None:
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
