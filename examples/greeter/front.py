"""A service that calls another: the reception has its guests greeted by the greeter.

    cd examples/greeter && python -m pymicro up  # both, from pymicro.toml
    python -m pymicro call reception Reception.Welcome '{"guests": ["Ada", "Grace"]}'

Nothing here passes on the caller's deadline or its request id: calls made inside
a handler are bounded by what the caller's deadline leaves and carry the metadata
that the setting forward_metadata lists.
"""

from __future__ import annotations

import asyncio

from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from pymicro import InvalidArgument, Service, handler
from reception.v1 import reception_pb2 as pb


class Reception:
    def __init__(self) -> None:
        # One stub for all calls; no connection is opened before the first.
        self.greeter = greeter_pb2_grpc.GreeterStub(service.channel("greeter"))

    @handler
    async def welcome(self, request: pb.WelcomeRequest) -> pb.WelcomeReply:
        greetings = await asyncio.gather(*(self.greet(guest) for guest in request.guests))
        return pb.WelcomeReply(greetings=greetings)

    async def greet(self, guest: str) -> pb.Greeting:
        try:
            said = await self.greeter.SayHello(greeter_pb2.HelloRequest(name=guest))
        except InvalidArgument as exc:
            # Passed on deliberately. Any error that is not caught reaches our
            # caller as INTERNAL, for what failed behind us is not its fault.
            raise InvalidArgument(f"guest {guest!r}: {exc.details()}") from exc
        return pb.Greeting(message=said.message, address=said.address, pid=said.pid)


service = Service("reception", version="1.0.0")
service.add(Reception(), pb)

if __name__ == "__main__":
    service.init()
    service.run()
