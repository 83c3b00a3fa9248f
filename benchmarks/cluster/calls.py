"""From a pod's change to the calls: the last one to a node that leaves, the first to one that comes."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import grpc.aio

from benchmarks.cluster.pods import Pods
from benchmarks.figures import Figure, Row, at_most
from benchmarks.greeter import REQUEST, rpc
from benchmarks.server import Bare
from pymicro import Client, RpcError

__all__ = ["last_calls"]

SERVICE = "calls"
CALLS_A_SECOND = 400


class Caller:
    """Calls the service again and again, and notes which node each call took and when."""

    def __init__(self, client: Client) -> None:
        self._stub = rpc.GreeterStub(client.channel(SERVICE))
        self.last: dict[str, float] = {}
        self.calls = 0
        self.failed: Counter[str] = Counter()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            begun = time.monotonic()
            while True:
                while self.calls < (time.monotonic() - begun) * CALLS_A_SECOND:
                    self.calls += 1
                    group.create_task(self._call())
                await asyncio.sleep(0.001)

    async def _call(self) -> None:
        call = self._stub.SayHello(REQUEST)
        at = time.monotonic()
        try:
            await call
        except RpcError as exc:
            self.failed[exc.code().name] += 1
        if call.node is not None:
            host = call.node.address.rpartition(":")[0]
            self.last[host] = max(at, self.last.get(host, 0.0))
        self._news.set()

    def called_since(self, host: str, moment: float) -> bool:
        return self.last[host] >= moment

    def quiet(self, host: str, seconds: float = 1.5) -> bool:
        """Whether `host` had no call for that long: every other node had dozens."""
        return time.monotonic() - self.last[host] >= seconds

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds; looked at after each call, so hundreds of times a second."""
        while not condition():
            self._news.clear()
            await self._news.wait()


async def last_calls(pods: Pods, *, count: int = 20, changes: int = 40) -> AsyncIterator[list[Row]]:
    """Readiness lost and deletions among `count` nodes that are called all the time."""
    server = grpc.aio.server()
    rpc.add_GreeterServicer_to_server(Bare(), server)
    port = server.add_insecure_port("0.0.0.0:0")
    await server.start()
    names = list(await pods.create(SERVICE, count, port=port))
    took: dict[str, list[float]] = {"unready": [], "ready": [], "terminating": []}
    settings = {
        "registry": "kubernetes",
        "registry_address": [f"kubeconfig={pods.kubeconfig}"],
        "registry_namespace": [pods.namespace],
    }
    async with Client(**settings) as client:
        caller = Caller(client)
        calling = asyncio.create_task(caller.run())
        try:
            async with asyncio.timeout(60):
                await caller.until(lambda: len(caller.last) == count)
            async with asyncio.timeout(10 * changes):
                for name in random.choices(names, k=changes):
                    host = pods.address(name)
                    took["unready"].append(await _leaves(caller, host, pods.set_ready(name, False)))
                    came = time.monotonic()
                    await pods.set_ready(name, True)
                    await caller.until(partial(caller.called_since, host, came))
                    took["ready"].append(caller.last[host] - came)
                for name in random.sample(names, count // 2):
                    host = pods.address(name)
                    took["terminating"].append(await _leaves(caller, host, pods.delete(name, grace=60)))
        finally:
            calling.cancel()
            await asyncio.wait([calling])
    await server.stop(None)
    await pods.delete_all(SERVICE)
    for what, end in (
        ("unready", "unready → last new call"),
        ("terminating", "terminating → last new call"),
        ("ready", "ready → first call"),
    ):
        values = [1e3 * seconds for seconds in took[what]]
        detail = f"{caller.calls:,} calls, failed: {dict(caller.failed) or 0}, {len(values)} changes"
        yield [
            Row("calls", f"{count} nodes, {end}, p50", Figure.of(values), "ms"),
            Row(
                "calls",
                f"{count} nodes, {end}, the longest",
                Figure.of([max(values)]),
                "ms",
                at_most(1000),
                detail,
            ),
        ]


async def _leaves(caller: Caller, host: str, write: Awaitable[None]) -> float:
    """Seconds from the write to the last call that `host` got; 0 if it got none since."""
    at = time.monotonic()
    await write
    await caller.until(partial(caller.quiet, host))
    return max(0.0, caller.last[host] - at)
