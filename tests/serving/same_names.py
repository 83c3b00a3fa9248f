"""A user's servicers that are named like the generated ones, beside the generated function."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc

# As `from zoo_pb2_grpc import …` does; `tests.protos` makes the module at run time.
Base: Any = zoo_pb2_grpc.KeeperServicer
add_GateServicer_to_server = zoo_pb2_grpc.add_GateServicer_to_server
add_KeeperServicer_to_server = zoo_pb2_grpc.add_KeeperServicer_to_server

__all__ = [
    "Decorated",
    "GateServicer",
    "Inherited",
    "KeeperServicer",
    "Mixed",
    "add_GateServicer_to_server",
    "add_KeeperServicer_to_server",
]


class KeeperServicer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """All but Talk."""

    async def Import(self, request: Any, context: Any) -> Any:
        return pb.Animal(name=request.name.upper())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.Animal(name=request.name)

    async def Count(self, requests: Any, context: Any) -> Any:
        return pb.Tally(count=len([request async for request in requests]))


class Inherited(KeeperServicer):
    """A class of the user's between this one and the generated one."""


class GateServicer(Base):  # type: ignore[misc]
    """Named like the servicer of another service, its base imported under another name."""

    Import = KeeperServicer.Import
    Watch = KeeperServicer.Watch
    Count = KeeperServicer.Count


class _Mixin:
    Import = KeeperServicer.Import
    Watch = KeeperServicer.Watch
    Count = KeeperServicer.Count


class Mixed(_Mixin, Base):  # type: ignore[misc]
    """The methods come from a class that is no servicer."""


class Decorated(Base):  # type: ignore[misc]
    """functools.wraps gives each function the generated one's name and module."""

    @functools.wraps(Base.Import)
    async def Import(self, request: Any, context: Any) -> Any:
        return pb.Animal(name=request.name.upper())

    @functools.wraps(Base.Watch)
    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.Animal(name=request.name)

    @functools.wraps(Base.Count)
    async def Count(self, requests: Any, context: Any) -> Any:
        return pb.Tally(count=len([request async for request in requests]))
