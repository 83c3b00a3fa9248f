"""The same through the DNS: a headless Service's name, resolved again when a connection ends.

What `--selector=static` and a bare grpc.aio channel have, for comparison. The name server
here is told of a change at the moment it happens; a cluster's hears of it later.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import grpc.aio

from benchmarks.figures import Figure, Row
from benchmarks.greeter import REQUEST, pb, rpc
from tests.cluster.kubelet.dns import NameServer
from tests.cluster.kubelet.services import Backends

__all__ = ["through_names"]

NAME = "calls.bench.svc.cluster.local"
CALLS_A_SECOND = 400


class Greeter(rpc.GreeterServicer):  # type: ignore[misc]
    """Answers with its own address."""

    def __init__(self, host: str) -> None:
        self._reply = pb.HelloReply(address=host)

    async def SayHello(self, request: object, context: object) -> object:
        return self._reply


@asynccontextmanager
async def _servers(hosts: list[str], age: float) -> AsyncIterator[int]:
    """A server at each of these hosts that ends connections at that age (seconds); their port."""
    port = 0
    async with AsyncExitStack() as stack:
        for host in hosts:
            server = grpc.aio.server(options=[("grpc.max_connection_age_ms", int(age * 1000))])
            rpc.add_GreeterServicer_to_server(Greeter(host), server)
            port = server.add_insecure_port(f"{host}:{port}")
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield port


class Caller:
    """Calls again and again, and notes when each host answered first and last."""

    def __init__(self, stub: rpc.GreeterStub) -> None:
        self._stub = stub
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._call())
                await asyncio.sleep(1 / CALLS_A_SECOND)

    async def _call(self) -> None:
        begun = time.monotonic()
        host = (await self._stub.SayHello(REQUEST)).address
        self.first.setdefault(host, begun)
        self.last[host] = max(begun, self.last.get(host, 0.0))


async def through_names(*, count: int = 20, changes: int = 10, age: float = 30.0) -> AsyncIterator[list[Row]]:
    """Half of the nodes leave the name at once, and come back; connections live `age` seconds."""
    hosts = [f"127.2.0.{number + 1}" for number in range(count)]
    changing = hosts[:changes]
    loop = asyncio.get_running_loop()
    names = NameServer()
    transport, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 0))
    try:
        async with _servers(hosts, age) as port:

            def tell(known: list[str]) -> float:
                names.update([Backends(name=NAME, ip="", ips=frozenset(known), ports={})])
                return time.monotonic()

            tell(hosts)
            server = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
            options = [
                ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
                ("grpc.dns_min_time_between_resolutions_ms", 5000),
                ("grpc.enable_http_proxy", 0),
            ]
            async with grpc.aio.insecure_channel(f"dns://{server}/{NAME}:{port}", options=options) as channel:
                caller = Caller(rpc.GreeterStub(channel))
                calling = asyncio.create_task(caller.run())
                await asyncio.sleep(2.0)
                left = tell(hosts[changes:])
                await asyncio.sleep(1.2 * age + 6.0)
                leaving = [max(0.0, caller.last[host] - left) for host in changing]
                for host in changing:
                    del caller.first[host]
                came = tell(hosts)
                await asyncio.sleep(1.2 * age + 6.0)
                coming = [caller.first[host] - came for host in changing]
                calling.cancel()
                await asyncio.wait([calling])
    finally:
        transport.close()
    what = f"{count} nodes behind a headless name, connections of {age:g} s"
    for values, end in ((leaving, "left → last new call"), (coming, "came → first call")):
        yield [Row("names", f"{what}, {end}", Figure.of(values), "s", None, f"longest {max(values):.1f} s")]
