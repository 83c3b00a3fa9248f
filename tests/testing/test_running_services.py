"""What users test their services with: real calls, in one process, and nodes that misbehave on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PymicroError,
    Service,
    Unavailable,
    handler,
    idempotent,
)
from pymicro.serving.server import Server
from pymicro.testing import Running, running

# Counted down from here, a countdown stops after the first number.
FOR_EVER = 99
ADA = pb.HelloRequest(name="Ada")


class Greeter:
    def __init__(self) -> None:
        self.served = 0

    @handler
    @idempotent
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        self.served += 1
        if not request.name:
            raise InvalidArgument("name is empty")
        return pb.HelloReply(message=f"Hello {request.name}")

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
        for number in range(getattr(request, "from"), 0, -1):
            if number == FOR_EVER - 1:
                await asyncio.Event().wait()
            yield pb.CountDownReply(number=number)


class Front:
    """Answers what the greeter answers, with a frame around it."""

    def __init__(self, service: Service) -> None:
        self.greeter = rpc.GreeterStub(service.channel("greeter"))

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        reply = await self.greeter.SayHello(request)
        return pb.HelloReply(message=f"<{reply.message}>")


def greeter(**options: Any) -> Service:
    service = Service("greeter", **options)
    service.add(Greeter(), pb, partial=True)
    return service


def stub(services: Running, name: str = "greeter", **options: Any) -> Any:
    return rpc.GreeterStub(services.channel(name, **options))


async def test_a_service_is_called_in_one_line() -> None:
    service = greeter()
    async with running(service) as services:
        reply = await rpc.GreeterStub(services.channel(service)).SayHello(ADA)
        assert reply.message == "Hello Ada"
        with pytest.raises(InvalidArgument, match="name is empty"):
            await stub(services).SayHello(pb.HelloRequest())
        numbers = [part.number async for part in stub(services).CountDown(pb.CountDownRequest(**{"from": 3}))]
        assert numbers == [3, 2, 1]


async def test_services_call_each_other() -> None:
    front = Service("front")
    front.add(Front(front), pb, partial=True)
    async with running(greeter(), front) as services:
        assert (await stub(services, "front").SayHello(ADA)).message == "<Hello Ada>"


async def test_one_service_runs_in_one_test_after_the_other() -> None:
    service = greeter()
    for _ in range(3):
        async with running(service) as services:
            assert (await stub(services).SayHello(ADA)).message == "Hello Ada"
    with pytest.raises(PymicroError):
        service.config  # noqa: B018 - as if it had never run


async def test_neither_environment_nor_code_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_REGISTRY", "nonsense")
    monkeypatch.setenv("MICRO_SELECTOR", "static")
    monkeypatch.setenv("MICRO_SERVER_ADDRESS", "0.0.0.0:8080")
    service = greeter(registry="kubernetes", selector="static", server_address=":8080", server_id="fixed")
    async with running(service, service) as services:
        assert (await stub(services).SayHello(ADA)).message == "Hello Ada"
        one, two = services.nodes
        assert one.address.startswith("127.0.0.1:")
        assert one.node.id != two.node.id


async def test_settings_are_for_services_and_client_alike() -> None:
    service = greeter(version="1")
    async with running(service, client_request_timeout=0.2, server_version="2") as services:
        assert services.node.node.version == "2"
        assert service.config.client_request_timeout == 0.2
        services.node.hang()
        with pytest.raises(DeadlineExceeded):
            await stub(services).SayHello(ADA)


async def test_hooks_and_lifespan_run_and_leave_in_the_task_that_entered() -> None:
    seen: list[Any] = []

    @contextlib.asynccontextmanager
    async def lifespan(service: Service) -> AsyncIterator[None]:
        seen.append(("enter", asyncio.current_task()))
        yield
        seen.append(("leave", asyncio.current_task()))

    service = greeter(lifespan=lifespan, on_start=lambda: seen.append("start"))
    async with running(service):
        assert seen[1:] == ["start"]
    assert [entry[0] for entry in (seen[0], seen[2])] == ["enter", "leave"]
    assert seen[0][1] is seen[2][1]


async def test_the_same_service_several_times_is_several_nodes() -> None:
    service = greeter()
    async with running(service, service, balancer="round_robin") as services:
        assert {node.address for node in await services.client.nodes("greeter")} == {
            node.address for node in services.nodes
        }
        ready = services.channel("greeter")
        await ready.channel_ready()
        third = await services.start(service)
        async with asyncio.timeout(10):
            while not third.calls:
                await rpc.GreeterStub(ready).SayHello(ADA)
        assert all(node.calls for node in services.nodes)
        with pytest.raises(PymicroError, match="3 nodes"):
            services.node  # noqa: B018


async def test_a_node_is_made_to_fail_and_mended() -> None:
    async with running(greeter()) as services:
        node = services.node
        node.fail(NotFound("gone fishing"), method="SayHello", times=2)
        for _ in range(2):
            with pytest.raises(NotFound, match="gone fishing"):
                await stub(services).SayHello(ADA)
        assert (await stub(services).SayHello(ADA)).message == "Hello Ada"
        node.fail(method="SayHello")
        with pytest.raises(Unavailable, match="made to fail"):
            await stub(services).SayHello(ADA)
        assert [part async for part in stub(services).CountDown(pb.CountDownRequest(**{"from": 1}))]
        node.mend()
        assert (await stub(services).SayHello(ADA)).message == "Hello Ada"
        assert node.calls == 6


async def test_an_error_raised_many_times_does_not_grow() -> None:
    error = NotFound("gone")
    async with running(greeter()) as services:
        services.node.fail(error)
        for _ in range(3):
            with pytest.raises(NotFound):
                await stub(services).SayHello(ADA)
    assert error.__traceback__ is None


async def test_a_node_is_made_slow() -> None:
    async with running(greeter()) as services:
        await stub(services).SayHello(ADA)
        services.node.slow(0.2, times=1)
        started = time.monotonic()
        await stub(services).SayHello(ADA)
        assert time.monotonic() - started >= 0.2
        services.node.slow(30)
        with pytest.raises(DeadlineExceeded):
            await stub(services).SayHello(ADA, timeout=0.1)


async def test_what_is_used_up_or_mended_while_a_call_waits_is_not_done_to_it() -> None:
    async with running(greeter(), client_retries=0) as services:
        node, calls = services.node, stub(services)
        await calls.SayHello(ADA)
        for used_up in (True, False):
            node.slow(0.1, times=1)
            node.fail(NotFound("gone"), times=1)
            before = node.calls
            waits = asyncio.ensure_future(calls.SayHello(ADA))
            while node.calls == before:  # noqa: ASYNC110 # the count has no event
                await asyncio.sleep(0)
            if used_up:
                with pytest.raises(NotFound):
                    await calls.SayHello(ADA)
            else:
                node.mend()
            assert (await waits).message == "Hello Ada"


async def test_a_service_whose_first_node_could_not_start_is_where_the_next_one_is() -> None:
    failures = [ValueError("not yet")]

    def on_start() -> None:
        if failures:
            raise failures.pop()

    service = greeter(on_start=on_start)
    async with running() as services:
        with pytest.raises(ValueError, match="not yet"):
            await services.start(service)
        node = await services.start(service)
        assert service.node == node.node
        await services.start(service)
        assert service.node == node.node


async def test_a_node_that_vanishes_breaks_its_calls_and_another_one_takes_over() -> None:
    service = greeter()
    async with running(service, service, balancer="round_robin") as services:
        one, two = services.nodes
        channel = services.channel("greeter")
        calls = rpc.GreeterStub(channel)
        async with asyncio.timeout(10):
            while not (one.calls and two.calls):
                await calls.SayHello(ADA)
        streams = [calls.CountDown(pb.CountDownRequest(**{"from": FOR_EVER})) for _ in range(2)]
        for stream in streams:
            await stream.read()
        await one.vanish()
        rests = [asyncio.ensure_future(stream.read()) for stream in streams]
        (broken,), (whole,) = await asyncio.wait(rests, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(broken.exception(), Unavailable)
        assert len(await services.client.nodes("greeter")) == 2  # nobody has noticed yet
        for _ in range(20):
            assert (await calls.SayHello(ADA)).message == "Hello Ada"
        whole.cancel()
        await asyncio.wait([whole])


async def test_a_node_that_vanishes_may_be_gone_from_the_registry_as_well() -> None:
    async with running(greeter()) as services:
        await services.node.vanish(listed=False)
        with pytest.raises(Unavailable, match="no node for greeter"):
            await stub(services).SayHello(ADA)


async def test_a_node_that_stops_leaves_first() -> None:
    service = greeter()
    async with running(service, service) as services:
        one, two = services.nodes
        await one.stop()
        await one.stop()
        assert [node.address for node in await services.client.nodes("greeter")] == [two.address]
        assert (await stub(services).SayHello(ADA)).message == "Hello Ada"


async def test_starting_and_leaving_takes_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    # Told and not timed: a busy machine takes longer for everything.
    pauses: list[float] = []
    quieten = Server.quieten

    async def noting(server: Server, pause: float) -> None:
        pauses.append(pause)
        await quieten(server, pause)

    monkeypatch.setattr(Server, "quieten", noting)
    service = greeter()
    async with running(service) as services:
        await stub(services).SayHello(ADA)
        assert service.config.drain_delay == 0
    assert pauses == [0]


async def test_misspelt_methods_are_told() -> None:
    async with running(greeter()) as services:
        with pytest.raises(ValueError, match=r"no method 'SayHelo'.*did you mean 'SayHello'"):
            services.node.fail(method="SayHelo")


async def test_a_service_that_cannot_start_ends_those_before_it() -> None:
    good, bad = greeter(), Service("bad", on_start=_fails)
    bad.add(Greeter(), pb, partial=True)
    with pytest.raises(RuntimeError, match="no database"):
        async with running(good, bad):
            pytest.fail("it started")
    async with running(good):
        pass


def _fails() -> None:
    raise RuntimeError("no database")


async def test_a_service_that_runs_elsewhere_is_refused() -> None:
    service = greeter()
    async with running(service):
        with pytest.raises(PymicroError, match="greeter is running already"):
            async with running(service):
                pytest.fail("it started")
    service.init([])
    with pytest.raises(PymicroError, match="init"):
        async with running(service):
            pytest.fail("it started")
