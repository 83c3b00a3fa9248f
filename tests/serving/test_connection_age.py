"""The setting max_connection_age: connections end, calls do not."""

from __future__ import annotations

import asyncio
import time

import pytest

from pymicro.serving.call.context import CallContext
from pymicro.serving.grpc_transport import GrpcServerTransport
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import serving


class Gate:
    """Remembers through which connections it was called; an elephant waits to be let in."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.release = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(set(self.peers))

    @handler("Import")
    async def import_one(self, request: pb.Animal, context: CallContext) -> pb.Animal:
        self.peers.append(context.peer())
        if request.name == "elephant":
            await self.release.wait()
        return request


KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]


async def test_connections_end_at_their_age_and_no_call_fails() -> None:
    gate = Gate()
    async with serving(gate, source=KEEPER, config=Config(max_connection_age=0.3)) as running:
        started = time.monotonic()
        long = asyncio.create_task(running.ask("Import", "elephant"))
        calls = 0
        while gate.connections < 4:
            assert await running.ask("Import", "ant") == ["ant"]
            calls += 1
        # Four connections at least: three have lived their 0.3 s less a tenth.
        assert time.monotonic() - started > 3 * 0.27
        assert not long.done()
        gate.release.set()
        # It began on the first connection, which has been told to go three ages ago.
        assert await long == ["elephant"]
        assert len(gate.peers) == calls + 1


async def test_connections_live_for_ever_unless_told_otherwise() -> None:
    assert "grpc.max_connection_age_ms" not in dict(GrpcServerTransport(Config())._options)


@pytest.mark.parametrize(("seconds", "milliseconds"), [(60.0, 60_000), (1e-9, 1), (1e9, (1 << 31) - 1)])
def test_an_age_is_what_grpc_can_hold(seconds: float, milliseconds: int) -> None:
    options = dict(GrpcServerTransport(Config(max_connection_age=seconds))._options)
    assert options["grpc.max_connection_age_ms"] == milliseconds


def test_an_option_in_code_wins() -> None:
    transport = GrpcServerTransport(Config(max_connection_age=1), [("grpc.max_connection_age_ms", 5)])
    assert [value for name, value in transport._options if name == "grpc.max_connection_age_ms"] == [5]
