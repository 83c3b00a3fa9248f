"""A client that knows nothing of the greeter but its name.

python examples/greeter/client.py Ada Grace
python examples/greeter/client.py --every 1 --selector=static
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc


async def greet(stub: greeter_pb2_grpc.GreeterStub, name: str) -> None:
    reply = await stub.SayHello(pb.HelloRequest(name=name), timeout=2)
    print(f"{reply.message}  ({reply.address}, pid {reply.pid})", flush=True)


async def greet_for_ever(stub: greeter_pb2_grpc.GreeterStub, names: list[str], every: float) -> None:
    while True:
        for name in names:
            try:
                await greet(stub, name)
            except pymicro.RpcError as exc:
                print(exc, file=sys.stderr, flush=True)
            await asyncio.sleep(every)


async def main(names: list[str], every: float | None, flags: list[str]) -> int:
    # The first process of a container gets no SIGTERM unless it asks for it.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with pymicro.Client(argv=flags) as client:
        stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        if every is not None:
            await greet_for_ever(stub, names, every)
        try:
            for name in names:
                await greet(stub, name)
            async for count in stub.CountDown(pb.CountDownRequest(**{"from": 3})):
                print(count.number)
        except pymicro.RpcError as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(epilog="Other flags are settings of pymicro, such as --selector=static.")
    parser.add_argument("names", nargs="*", default=["Ada", "Grace", "Edsger"])
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on for ever, a call each time")
    given, flags = parser.parse_known_args()
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM
        sys.exit(asyncio.run(main(given.names, given.every, flags)))
