"""A handler gives up on a caller who does not read: the call ends as it says, and not by the deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pymicro import CallContext, PermissionDenied, handler
from pymicro.rpc.interceptors import Proceed
from tests.fakes.server_transport import MemoryChannel
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc

from .serving import Running, serving

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
# More than the window of `narrow` takes in before it reads.
LARGE = pb.Animal(name="x" * 3_500_000)


class Impatient(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """Writes a message that is not read for now, for a moment; then does what it is told."""

    def __init__(self, then: str) -> None:
        self.then = then
        self.given_up = asyncio.Event()

    async def _written(self, context: CallContext) -> None:
        try:
            async with asyncio.timeout(0.05):
                await context.write(LARGE)
                await asyncio.Event().wait()  # where nothing bounds what a caller has not read
        except TimeoutError:
            self.given_up.set()
        if self.then == "raise":
            raise PermissionDenied("too slow")
        if self.then == "abort":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "too slow")
        if self.then == "write":
            await context.write(pb.Animal(name="last"))

    async def Watch(self, request: pb.Query, context: CallContext) -> None:
        await self._written(context)

    async def Talk(self, requests: Any, context: CallContext) -> None:
        await context.read()
        await self._written(context)


@contextlib.asynccontextmanager
async def narrow(running: Running) -> AsyncIterator[Running]:
    """The server, over a channel whose windows do not grow."""
    if isinstance(running.channel, MemoryChannel):
        yield running
        return
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=options) as channel:
        yield Running(running.server, channel, running.port)


async def ended(call: Any) -> tuple[list[str], grpc.StatusCode, str | None]:
    """The messages, shortened, and the status."""
    names = []
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            names.append(message.name[:4])
    except grpc.aio.AioRpcError:
        pass
    return names, await call.code(), await call.details()


REFUSED = (grpc.StatusCode.PERMISSION_DENIED, "too slow")


@pytest.mark.parametrize("rpc", ["Watch", "Talk"])
@pytest.mark.parametrize(
    ("then", "more", "status"),
    [
        ("raise", [], REFUSED),
        ("abort", [], REFUSED),
        ("return", [], (grpc.StatusCode.OK, "")),
        ("write", ["last"], (grpc.StatusCode.OK, "")),
    ],
)
async def test_a_first_write_that_was_given_up_does_not_hold_the_status(
    rpc: str, then: str, more: list[str], status: tuple[grpc.StatusCode, str]
) -> None:
    impatient = Impatient(then)
    async with serving(impatient, source=None) as served, narrow(served) as running:
        if rpc == "Watch":
            call = running.rpc(rpc)(pb.Query(), timeout=20)
        else:
            call = running.rpc(rpc)(timeout=20)
            await call.write(pb.Animal())
        async with asyncio.timeout(10):
            await impatient.given_up.wait()
        names, *found = await ended(call)
        # It had begun to send the first one; whether the rest of that still goes is the transport's matter.
        assert names in (["xxxx", *more], more)
        assert tuple(found) == status
        # The next call is like any other.
        impatient.given_up.clear()
        await ended(running.rpc("Watch")(pb.Query(), timeout=20))


async def test_an_interceptor_may_bound_a_call_whose_caller_does_not_read() -> None:
    given_up = asyncio.Event()

    async def bounded(call: CallContext, proceed: Proceed) -> Any:
        try:
            return await asyncio.wait_for(proceed(), 0.05)
        except TimeoutError:
            given_up.set()
            raise PermissionDenied("too slow") from None

    class Large:
        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            while True:
                yield LARGE

    async with (
        serving(Large(), source=KEEPER, interceptors=[bounded]) as served,
        narrow(served) as running,
    ):
        call = running.rpc("Watch")(pb.Query(), timeout=20)
        async with asyncio.timeout(10):
            await given_up.wait()
        _, *found = await ended(call)
        assert tuple(found) == REFUSED


async def test_initial_metadata_that_were_given_up_do_not_hold_the_status() -> None:
    async def given_up(context: CallContext) -> None:
        sending = asyncio.create_task(context.send_initial_metadata((("a", "b"),)))
        await asyncio.sleep(0)  # it has begun
        sending.cancel()
        await asyncio.wait([sending])

    class Told:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            await given_up(context)
            return request

        @handler
        async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
            await given_up(context)
            yield pb.Animal(name="one")

    async with serving(Told(), source=KEEPER) as running:
        assert await running.ask("Import", "ant") == ["ant"]
        call = running.rpc("Watch")(pb.Query(), timeout=20)
        assert ("a", "b") in tuple(await call.initial_metadata())
        assert await ended(call) == (["one"], grpc.StatusCode.OK, "")


async def test_a_caller_who_goes_meanwhile_leaves_nothing_behind() -> None:
    impatient = Impatient("raise")
    async with serving(impatient, source=None) as served, narrow(served) as running:
        call = running.rpc("Watch")(pb.Query(), timeout=20)
        async with asyncio.timeout(10):
            await impatient.given_up.wait()
        call.cancel()
        async with asyncio.timeout(10):
            while running.server.in_progress:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.005)
