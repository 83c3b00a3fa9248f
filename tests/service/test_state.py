"""What a lifespan yields is `service.state`, and `context.state` in each call, typed for type checkers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import (
    CallContext,
    ConfigError,
    Internal,
    MemoryRegistry,
    PymicroError,
    Service,
    current,
    handler,
)
from pymicro.testing import running


class Words:
    """The state: which greeting a node has."""

    made = 0

    def __init__(self) -> None:
        Words.made += 1
        self.hello = f"Hello {Words.made}"


@asynccontextmanager
async def words(service: Service[Words]) -> AsyncIterator[Words]:
    with pytest.raises(PymicroError, match=f"the state of {service.name} .* has not opened yet"):
        service.state  # noqa: B018
    yield Words()


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext[Words]) -> pb.HelloReply:
        return pb.HelloReply(message=context.state.hello)


class Servicer(rpc.GreeterServicer):  # type: ignore[misc]
    """Generated code's, for grpc.aio."""

    async def SayHello(self, request: Any, context: Any) -> pb.HelloReply:
        assert context.state is current().state
        return pb.HelloReply(message=context.state.hello)


def greeter(servicer: object, **options: Any) -> Service[Words]:
    service: Service[Words] = Service("greeter", lifespan=words, **options)
    service.add(servicer, pb, partial=True)
    return service


@pytest.mark.parametrize("servicer", [Greeter(), Servicer()])
async def test_handlers_and_hooks_see_what_the_lifespan_yielded(servicer: object) -> None:
    service = greeter(servicer, registry=MemoryRegistry())
    seen: list[Any] = []
    gone: list[str] = []

    @service.on_start
    def start() -> None:
        seen.append(service.state)

    @service.health_check
    async def check(given: Service[Words]) -> None:
        seen.append(given.state)

    @service.on_stop
    def stop() -> None:
        with pytest.raises(
            PymicroError, match="the state of greeter is gone: its lifespan has closed"
        ) as raised:
            service.state  # noqa: B018
        gone.append(str(raised.value))

    with pytest.raises(PymicroError, match="greeter is not running"):
        service.state  # noqa: B018
    async with service:
        stub = rpc.GreeterStub(service.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest())).message == service.state.hello
        assert seen == [service.state, service.state]
    assert gone


async def test_each_node_of_a_test_has_its_own() -> None:
    service = greeter(Greeter())
    asked: list[Any] = []

    @service.on_start
    def start() -> None:
        asked.append(service.state)

    async with running(service, service, balancer="round_robin") as services:
        first, second = services.nodes
        assert asked == [first.state, second.state]
        assert first.state is not second.state
        assert service.state is first.state
        channel = services.channel("greeter")
        await channel.channel_ready()
        heard = set()
        while len(heard) < 2:
            heard.add((await rpc.GreeterStub(channel).SayHello(pb.HelloRequest())).message)
        assert heard == {first.state.hello, second.state.hello}
        await first.stop()
        with pytest.raises(PymicroError, match="its lifespan has closed"):
            first.state  # noqa: B018
        assert second.state.hello in heard


async def test_a_service_without_a_lifespan_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("greeter")
    service.add(Greeter(), pb, partial=True)
    async with running(service) as services:
        with pytest.raises(PymicroError, match="greeter has no state: it is what a lifespan yields"):
            service.state  # noqa: B018
        with pytest.raises(Internal):
            await rpc.GreeterStub(services.channel("greeter")).SayHello(pb.HelloRequest())
    assert "greeter has no state: it is what a lifespan yields" in caplog.text


def test_a_lifespan_that_is_no_context_manager_is_told_at_once() -> None:
    async def bare() -> AsyncIterator[None]:
        yield

    with pytest.raises(ConfigError, match="lifespan= in code: write @asynccontextmanager above 'bare'"):
        Service("greeter", lifespan=bare)  # type: ignore[arg-type]


def test_strict_mypy_knows_the_type_and_finds_mistakes(tmp_path: Path) -> None:
    text = dedent("""
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    from pymicro import CallContext, Service, current, handler, kubernetes_service
    from pymicro.testing import running

    class Database:
        name = "postgres"

    @asynccontextmanager
    async def open_database(service: Service) -> AsyncIterator[Database]:
        yield Database()

    service = Service("shop", lifespan=open_database)
    plain = Service("plain")
    preset: Service[Database] = kubernetes_service("shop", lifespan=open_database)

    class Shop:
        @handler
        async def typed(self, request: object, context: CallContext[Database]) -> object:
            return context.state.name

        @handler
        async def untyped(self, request: object, context: CallContext) -> object:
            database: Database = current().state
            return database.name, context.state.anything

    @service.background(every=60)
    async def refresh() -> None:
        reveal_type(service.state)  # a note

    async def once() -> None: ...

    service.background(once)

    async def test() -> None:
        async with running(service, plain) as services:
            print(services.node.state)

    async def wrong(context: CallContext[Database]) -> None:
        context.state.nme  # a mistake

    service.background(lambda: 1)  # a mistake
    """).lstrip()
    (tmp_path / "app.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if ": note: See" not in line]
    told = [number for number, line in enumerate(text.splitlines(), 1) if " # a " in line]
    assert [int(line.split(":")[1]) for line in lines] == told, done.stdout
    assert 'note: Revealed type is "app.Database"' in lines[0]
    assert 'error: "Database" has no attribute "nme"' in lines[1]
    assert 'error: Value of type variable "BackgroundT"' in lines[2]
