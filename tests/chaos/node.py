"""A node of the victim: a program that the chaos tests start, trouble and kill.

    python -m tests.chaos.node FOLDER NAME [ONWARD]

It behaves as `FOLDER/NAME.behaviour` says (fleet.py writes it; looked at for each call), and writes
what it does to `FOLDER/NAME.<pid>.journal`, a line each before it goes on: what a process has given
to the kernel outlives its SIGKILL. ONWARD names the service that its method Onward calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from pymicro import CallContext, RpcError, Service, handler, idempotent
from tests.chaos.proto import SERVICE, Answer, Order, call_method

ATTEMPTS = "pymicro-previous-attempts"


class Journal:
    """What happened to calls here, one line each, in the kernel's hands at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, context: CallContext, call: str, note: str = "") -> None:
        method = context.method.rpartition("/")[2]
        before = context.metadata.get(ATTEMPTS, "0")
        os.write(self._file, f"{time.time():.6f}\t{event}\t{call}\t{method}\t{before}\t{note}\n".encode())


class Behaviour:
    """How to behave now: read anew when the file has been replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._now: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        try:
            written = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if written != self._read:
            self._read, self._now = written, json.loads(self._path.read_text())
        return self._now


class Victim:
    def __init__(self, name: str, folder: Path, onward: str) -> None:
        self._name = name
        self._onward = onward
        self._journal = Journal(folder / f"{name}.{os.getpid()}.journal")
        self._behaviour = Behaviour(folder / f"{name}.behaviour")

    @handler
    async def plain(self, order: Any, context: CallContext) -> Any:
        return await self._work(order, context)

    @handler
    async def marked(self, order: Any, context: CallContext) -> Any:
        return await self._work(order, context)

    @handler
    @idempotent
    async def decorated(self, order: Any, context: CallContext) -> Any:
        return await self._work(order, context)

    @handler
    async def count(self, order: Any, context: CallContext) -> AsyncIterator[Any]:
        await self._begin(order, context)
        for number in range(order.messages):
            yield Answer(call=order.call, node=self._name, number=number)
            await asyncio.sleep(order.seconds / order.messages)
        self._journal.write("end", context, order.call)

    @handler
    async def collect(self, orders: AsyncIterator[Any], context: CallContext) -> Any:
        number = 0
        async for order in orders:
            if number == 0:
                await self._begin(order, context)
            number += 1
        self._journal.write("end", context, order.call)
        return Answer(call=order.call, node=self._name, number=number)

    @handler
    async def onward(self, order: Any, context: CallContext) -> Any:
        """Ask the next service; what it could not do, we could not either, and say so."""
        await self._begin(order, context)
        # The last but one asks the deepest, which has nobody to ask.
        method = "Marked" if self._onward == "deepest" else "Onward"
        try:
            return await call_method(service.channel(self._onward), method)(Order(call=order.call))
        except RpcError as exc:
            await context.abort(exc.code(), f"{self._onward}: {exc.details()}")

    async def _work(self, order: Any, context: CallContext) -> Any:
        await self._begin(order, context)
        if order.seconds:
            await asyncio.sleep(order.seconds)
        self._journal.write("end", context, order.call)
        return Answer(call=order.call, node=self._name)

    async def _begin(self, order: Any, context: CallContext) -> None:
        behaviour = self._behaviour.now()
        trailers = tuple((key, value) for key, value in behaviour.get("trailers", ()))
        self._journal.write("begin", context, order.call)
        await asyncio.sleep(behaviour.get("pause", 0.0))
        if "fail" in behaviour:
            self._journal.write("fail", context, order.call, behaviour["fail"])
            await context.abort(grpc.StatusCode[behaviour["fail"]], "as I was told", trailers)


if __name__ == "__main__":
    folder, name, *rest = sys.argv[1:]
    service = Service(os.environ.get("CHAOS_SERVICE", "victim"))
    service.add(Victim(name, Path(folder), rest[0] if rest else ""), SERVICE)
    service.init(argv=[])
    service.run()
