"""A client that sees a thousand nodes come and go, a few at a time, and calls them, as a program.

    python -m tests.telemetry.real.churn ADMIN_ADDRESS NETWORK

All are one server with an address of loopback for each, in NETWORK (`127.64.30`) and the next three. It
says when the first few were called, and goes on at SIGUSR1. It says when all have come and gone; then it
stays.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import grpc
import grpc.aio

from pymicro import Client, Node
from pymicro.discovery.registries.memory import MemoryRegistry

SERVICE = "many"
PATH = "/many.v1.Many/Get"
# So many at a time, so often.
AT_ONCE, TIMES = 50, 20


class Answers(grpc.GenericRpcHandler):
    """Answers every call with what it was asked."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


async def serve(network: str) -> tuple[grpc.aio.Server, list[Node]]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Answers(),))
    nodes = []
    half, _, first = network.rpartition(".")
    for number in range(AT_ONCE * TIMES):
        host = f"{half}.{int(first) + number // 250}.{number % 250 + 1}"
        port = server.add_insecure_port(f"{host}:0")
        nodes.append(Node(f"{SERVICE}-{number}", f"{host}:{port}", SERVICE))
    await server.start()
    return server, nodes


async def call_each(client: Client, nodes: Sequence[Node]) -> None:
    """Call until each of these nodes has answered."""
    call = client.channel(SERVICE).unary_unary(PATH)
    missing = {node.address for node in nodes}
    async with asyncio.timeout(60):
        while missing:
            calls = [call(b"", wait_for_ready=True) for _ in range(AT_ONCE)]
            await asyncio.gather(*calls)
            missing -= {each.node.address for each in calls if each.node is not None}


async def main(admin_address: str, network: str) -> None:
    server, nodes = await serve(network)
    registry = MemoryRegistry()
    go_on = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go_on.set)
    async with Client(registry=registry, admin_address=admin_address, subset_size=0, environ={}) as client:
        there: Sequence[Node] = ()
        for begin in range(0, len(nodes), AT_ONCE):
            before, there = there, nodes[begin : begin + AT_ONCE]
            for node in there:
                await registry.register(node)
            await call_each(client, there)
            for node in before:
                await registry.deregister(node)
            if begin == 0:
                print("the first were called", flush=True)
                await go_on.wait()
        print("all came and went", flush=True)
        await asyncio.Event().wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
