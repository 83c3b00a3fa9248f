"""The command line as a user has it: a process of its own, its output and its exit code."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import clean_environment

# For the start of a Python on a machine that runs many: only a failure waits so long.
PATIENCE = 90.0


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Commands:
    """Runs `python -m pymicro`, with a registry folder of the test's own.

    Attributes:
        program: How Python starts it.
    """

    def __init__(self, registry_folder: str, cwd: Path) -> None:
        self.program = ("-m", "pymicro")
        self.env = clean_environment(MICRO_REGISTRY_ADDRESS=registry_folder, COLUMNS="80")
        # That output comes at once is the command's own doing.
        del self.env["PYTHONUNBUFFERED"]
        self.cwd = cwd

    async def __call__(self, *argv: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Result:
        """Run it to its end."""
        async with self.started(*argv, cwd=cwd, **env) as process:
            out, err = await asyncio.wait_for(process.communicate(stdin.encode()), PATIENCE)
            assert process.returncode is not None
            return Result(process.returncode, out.decode(), unhurried(err.decode()))

    @asynccontextmanager
    async def started(
        self,
        *argv: str,
        cwd: Path | None = None,
        stdout: Any = asyncio.subprocess.PIPE,
        stderr: Any = asyncio.subprocess.PIPE,
        **env: str,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that is still running; killed at the end unless it has ended."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self.program,
            *argv,
            stdin=pipe,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd or self.cwd,
            env={**self.env, **env},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


def unhurried(err: str) -> str:
    """What a command wrote on stderr, without what it says on a slow machine: that it is still connecting."""
    return re.sub(
        r"(?m)^waiting up to \S+ for a node of [^:\n]*: of \d+ nodes none is connected .*\n", "", err
    )


async def next_line(stream: asyncio.StreamReader | None) -> str:
    """The next line of a command's output, as soon as it comes."""
    assert stream is not None
    return (await asyncio.wait_for(stream.readline(), PATIENCE)).decode().rstrip("\n")
