"""A greeter for tests that count its calls, and hold some of them up."""

from __future__ import annotations

import asyncio
from typing import Any

from greeter.v1 import greeter_pb2 as pb
from pymicro import MemoryRegistry, Service, handler
from pymicro.discovery.registry import Registry

__all__ = ["Greeter", "greeter"]


class Greeter:
    """Counts its calls; `slow` ones wait until they may go on.

    Attributes:
        served: How many calls came.
        begun: Set when a slow one has come.
        go: Lets slow ones go on.
    """

    def __init__(self) -> None:
        self.served = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        self.served += 1
        if request.name == "slow":
            self.begun.set()
            await self.go.wait()
        return pb.HelloReply(message=f"Hello {request.name}")


def greeter(registry: Registry | None = None, **settings: Any) -> tuple[Service, Greeter]:
    """A service `greeter` that has not started, and what serves it; by default nobody is told of it."""
    service, own = Service("greeter", registry=registry or MemoryRegistry(), **settings), Greeter()
    service.add(own, pb, partial=True)
    return service, own
