"""A client and a server in two network namespaces; then the packets between them vanish.

Run in a network namespace of its own: `unshare --net python -m tests.client.vanishing request`.
The kernels are those of two machines: what the server's does not get, it does not acknowledge.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, MemoryRegistry, Node

from .backends import backend, hello, stub
from .wire import PERMITTING

HERE, THERE = "10.99.0.1", "10.99.0.2"
# No interface has it: what is sent there, nobody takes.
NOBODY = "02:00:00:00:00:01"
QUICK: Any = {
    "request": (("grpc.keepalive_timeout_ms", 1000),),
    "connect": (),
    "idle": (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000)),
    "stream": (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000)),
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def machine() -> Iterator[str]:
    """Another namespace, connected by a veth, with a server in it; yields the server's address."""
    argv = ["unshare", "--net", sys.executable, "-m", __spec__.name, "server"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdout.readline()  # it is in its namespace
            ip("link", "set", "lo", "up")
            ip("link", "add", "hole", "type", "veth", "peer", "name", "eth0", "netns", str(server.pid))
            ip("address", "add", f"{HERE}/24", "dev", "hole")
            ip("link", "set", "hole", "up")
            server.stdin.write("go\n")
            server.stdin.flush()
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def serve() -> None:
    """The other machine: wait for the veth, then serve until terminated, or alone."""
    print("here", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    ip("address", "add", f"{THERE}/24", "dev", "eth0")
    ip("link", "set", "eth0", "up")
    async with backend(address=f"{THERE}:0", options=PERMITTING) as server:
        print(server.node.address, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


def vanish() -> None:
    """What is sent to the other machine is lost from now on."""
    ip("neighbour", "replace", THERE, "dev", "hole", "lladdr", NOBODY, "nud", "permanent")


async def code_of(call: Any) -> str:
    try:
        await call
    except pymicro.RpcError as exc:
        return exc.code().name
    return "answered"


async def find(scenario: str, address: str) -> str:
    """What the client makes of it."""
    registry = MemoryRegistry()
    metadata = {"keepalive": "10s"} if scenario in ("idle", "stream") else {}
    async with registry, Client(registry=registry) as client:
        await registry.register(Node("far", address, "greeter", metadata=metadata))
        options = QUICK[scenario]
        greet = stub(client, options=options)
        if scenario == "connect":
            vanish()
            return await code_of(greet.SayHello(hello(), timeout=60))
        await greet.SayHello(hello(), timeout=30, wait_for_ready=True)  # a busy machine connects slowly
        chat = greet.Chat()
        if scenario == "stream":
            await chat.write(pb.ChatMessage(text="a"))
            await chat.read()
        else:
            chat.cancel()
        target = client.channel("greeter", options=options).open()
        (channel,) = target.channels.values()
        vanish()
        said = []
        if scenario == "request":
            said = [await code_of(greet.SayHello(hello(), timeout=60))]
        elif scenario == "stream":
            said = [await code_of(chat.read())]
        while channel.pickable:
            await target.change()
        return ", ".join([*said, "left"])


def main() -> None:
    if sys.argv[1] == "server":
        asyncio.run(serve())
        return
    with machine() as address:
        print("found:", asyncio.run(find(sys.argv[1], address)), flush=True)


if __name__ == "__main__":
    main()
