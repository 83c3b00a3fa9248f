"""A process that has registered a node, and can be killed: what the contract suite asks for."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["owner"]


@contextlib.asynccontextmanager
async def owner(*arguments: str | bytes) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Run `python …`, a program that prints `ready`; the value kills it."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)

    async def kill() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield kill
    finally:
        await kill()
