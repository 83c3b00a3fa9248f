"""A client that knows nothing of the greeter but its name.

python examples/greeter/client.py Ada Grace
"""

from __future__ import annotations

import asyncio
import sys

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc


async def main(names: list[str]) -> int:
    async with pymicro.Client() as client:
        stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        try:
            for name in names:
                reply = await stub.SayHello(pb.HelloRequest(name=name), timeout=2)
                print(f"{reply.message}  ({reply.address}, pid {reply.pid})")
            async for count in stub.CountDown(pb.CountDownRequest(**{"from": 3})):
                print(count.number)
        except pymicro.RpcError as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or ["Ada", "Grace", "Edsger"])))
