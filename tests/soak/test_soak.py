"""Very many calls, most of which do not end by themselves: memory stays, and nobody gets a wrong status.

Run by `make soak`: SOAK_CALLS calls of each shape, and SOAK_SECONDS of deadlines, on the transports of
`--client-transport` and `--server-transport`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pymicro import Client, RpcError
from tests.processes import ROOT, Process, Processes
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO

pytestmark = pytest.mark.soak

CALLS = int(os.environ.get("SOAK_CALLS", "1000000"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
# Calls in flight.
WORKERS = 40
# Seconds.
DEADLINE = 0.010
# Bytes by which a process may have grown when most calls were made, since the first part of them.
GROWTH = 5 << 20
WARM = 0.2
SHAPES = ["unary", "responses", "requests", "both"]

Say = Callable[[str], None]


@pytest.fixture
def server(processes: Processes) -> Iterator[Process]:
    """A node of the service, in a process of its own."""
    process = processes.pymicro("run", "tests/soak/service.py", PYTHONPATH=str(ROOT))
    process.wait_for(", registered")
    yield process
    assert process.stop() == 0, process.report()
    wrong = [line for line in process.stderr if re.search(r"WARN|ERROR|Traceback|exception", line)]
    assert not wrong, wrong[:20]


def held(pid: int) -> int:
    """Bytes of memory that are the process's own."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


class Calls:
    """Makes calls of one shape."""

    def __init__(self, channel: Any, shape: str) -> None:
        self.shape = shape
        kind, name, request, response = {
            "unary": ("unary_unary", "Import", pb.Animal, pb.Animal),
            "responses": ("unary_stream", "Watch", pb.Query, pb.Animal),
            "requests": ("stream_unary", "Count", pb.Animal, pb.Tally),
            "both": ("stream_stream", "Talk", pb.Animal, pb.Animal),
        }[shape]
        self._request = request
        self._method = getattr(channel, kind)(
            f"{ZOO}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    async def _requests(self, name: str) -> AsyncIterator[Any]:
        for _ in range(5):
            yield self._request(name=name)

    def begin(self, name: str, timeout: float | None = None) -> Any:
        """A call that was begun."""
        if self.shape in ("requests", "both"):
            return self._method(self._requests(name), timeout=timeout)
        return self._method(self._request(name=name), timeout=timeout)

    async def end(self, call: Any) -> None:
        """All of it."""
        if self.shape in ("unary", "requests"):
            await call
        else:
            assert len([answer async for answer in call]) == 5


async def cancelled_at_random(calls: Calls, count: int, ends: Counter[str]) -> None:
    """Make so many calls, of which most are cancelled: at once, after some turns of the loop, or later."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            call = calls.begin(random.choice(("", "turn", "wait")))
            when = random.random()
            ending = asyncio.ensure_future(calls.end(call))
            if when < 0.1:
                call.cancel()
            elif when < 0.4:
                for _ in range(random.randrange(12)):
                    await asyncio.sleep(0)
                call.cancel()
            elif when < 0.6:
                await asyncio.sleep(random.uniform(0, 0.01))
                call.cancel()
            elif when < 0.7:
                await asyncio.sleep(0)
                ending.cancel()
            try:
                await ending
                ends["OK"] += 1
            except asyncio.CancelledError:
                ends["CANCELLED"] += 1
            except RpcError as exc:
                ends[f"{exc.code().name}: {exc.details()}"] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WORKERS):
            tasks.create_task(work())


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_stays_whatever_is_cancelled(
    server: Process, registry_folder: str, shape: str, say: Say
) -> None:
    async def run() -> None:
        ends: Counter[str] = Counter()
        async with Client(registry_address=registry_folder) as client:
            calls = Calls(client.channel("soak"), shape)
            await cancelled_at_random(calls, int(CALLS * WARM), ends)
            gc.collect()
            pids = {"client": os.getpid(), "server": server.pid}
            before = {end: held(pid) for end, pid in pids.items()}
            await cancelled_at_random(calls, int(CALLS * (1 - WARM)), ends)
            gc.collect()
            grown = {end: held(pid) - before[end] for end, pid in pids.items()}
        sizes = ", ".join(f"{end} {size / 2**20:+.1f} MB" for end, size in grown.items())
        say(f"{CALLS:,} calls, {shape}: {dict(ends.most_common())}; {sizes}")
        assert set(ends) <= {"OK", "CANCELLED"}, ends
        assert ends["OK"] > CALLS // 10 < ends["CANCELLED"]
        assert max(grown.values()) <= GROWTH, sizes

    asyncio.run(run())


def test_deadlines_end_as_deadlines_whatever_comes_between(
    server: Process, registry_folder: str, say: Say
) -> None:
    async def run() -> None:
        ends: Counter[tuple[str, str]] = Counter()
        loop = asyncio.get_running_loop()
        async with Client(registry_address=registry_folder) as client:
            channel = client.channel("soak")
            every = [Calls(channel, shape) for shape in SHAPES]
            await every[0].end(every[0].begin(""))
            last = loop.time() + SECONDS

            async def work() -> None:
                while loop.time() < last:
                    calls = random.choice(every)
                    call = calls.begin(random.choice(("turn", "wait")), DEADLINE)
                    try:
                        await calls.end(call)
                        ends[calls.shape, "OK"] += 1
                    except RpcError as exc:
                        text = "" if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED else str(exc.details())
                        ends[calls.shape, f"{exc.code().name} {text}".rstrip()] += 1

            async with asyncio.TaskGroup() as tasks:
                for _ in range(WORKERS):
                    tasks.create_task(work())
        total = sum(ends.values())
        say(f"{total:,} calls with a deadline of {DEADLINE * 1000:g} ms: {dict(ends.most_common())}")
        assert {end for _, end in ends} == {"OK", "DEADLINE_EXCEEDED"}

    asyncio.run(run())
