"""Binding, draining and stopping."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pymicro.base.errors import ConfigError, HandlersError, PymicroError, StartError
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import eventually, headers_with_path, serving
from tests.serving.test_dispatch import Keeper

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]


@pytest.mark.grpc_only("no call is made")
async def test_mismatches_of_all_objects_stop_the_bind() -> None:
    class Gate:
        @handler
        async def open_gat(self, request: pb.Query) -> pb.Tally: ...

    server = Server(Config())
    server.add(Keeper(), pb)
    server.add(Gate(), pb)
    server.add(Keeper(), pb)  # a second time
    with pytest.raises(HandlersError) as caught:
        await server.bind("127.0.0.1:0")
    text = str(caught.value)
    assert "the handlers do not fit the proto, in 3 places" in text
    assert "did you mean OpenGate?" in text
    assert "/pymicro.tests.zoo.Gate/OpenGate" in text
    assert "one object with its handlers" in text
    with pytest.raises(HandlersError):
        server.check()
    await server.stop(None)


@pytest.mark.grpc_only("it is about sockets")
async def test_a_taken_port_is_an_error_that_says_so() -> None:
    async with serving(Keeper()) as running:
        second = Server(Config())
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{running.port} is taken.*--server-address"):
            await second.bind(f"127.0.0.1:{running.port}")
        await second.stop(None)
        # Nor can anybody share it who asks for that.
        with socket.socket() as sharing:
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                sharing.bind(("127.0.0.1", running.port))
    # The port is free again at once, also with connections in TIME_WAIT.
    third = Server(Config())
    assert await third.bind(f"127.0.0.1:{running.port}") == ("127.0.0.1", running.port)
    await third.stop(None)


@pytest.mark.grpc_only("it is about sockets")
@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("127.0.0.1", ConfigError, "has no port"),
        ("127.0.0.1:http", ConfigError, "is no port"),
        ("no-such-host.invalid:0", ConfigError, "does not resolve"),
        ("192.0.2.1:0", StartError, "this machine has no such address"),
    ],
)
async def test_an_address_that_cannot_be_bound_says_why(
    address: str, error: type[Exception], words: str
) -> None:
    server = Server(Config())
    with pytest.raises(error, match=words):
        await server.bind(address)
    await server.stop(None)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.grpc_only("it is about sockets")
@pytest.mark.parametrize(
    ("address", "host", "target"),
    [
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1:{}"),
        (":0", "::", "127.0.0.1:{}"),
        ("0.0.0.0:0", "0.0.0.0", "127.0.0.1:{}"),
        ("localhost:0", "localhost", "localhost:{}"),
        pytest.param(
            "[::1]:0", "::1", "[::1]:{}", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
        ),
    ],
)
async def test_a_server_listens_where_it_is_told(address: str, host: str, target: str) -> None:
    server = Server(Config())
    server.add(Keeper(), pb)
    bound, port = await server.bind(address)
    assert bound == host
    assert port > 0
    await server.start()
    async with grpc.aio.insecure_channel(target.format(port)) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.stop(None)


async def test_a_drain_lets_calls_and_polite_streams_finish() -> None:
    class Polite:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            assert not context.draining
            await context.draining.wait()
            assert context.draining
            return pb.Animal(name="finished")

        @handler
        async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
            yield pb.Animal(name="begun")
            await context.draining.wait()
            yield pb.Animal(name="goodbye")

    async with serving(Polite(), source=KEEPER) as running:
        unary = asyncio.create_task(running.ask("Import"))
        stream = running.rpc("Watch")(pb.Query(), timeout=20)
        health = health_pb2_grpc.HealthStub(running.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        await stream.read()
        await health.read()
        await eventually(lambda: running.server.in_progress == 2, "both calls are in progress")
        started = time.monotonic()
        await running.server.stop(20)
        assert time.monotonic() - started < 5  # nothing held it for the whole grace
        assert await unary == ["finished"]
        assert (await stream.read()).name == "goodbye"
        assert await stream.code() is grpc.StatusCode.OK
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health.code() is grpc.StatusCode.OK
        assert running.server.in_progress == 0


async def test_after_the_grace_calls_are_cancelled_and_clean_up() -> None:
    ended = []

    class Slow:
        @handler("Import")
        async def import_(self, request: pb.Animal) -> pb.Animal:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                ended.append(1)
            raise AssertionError

    async with serving(Slow(), source=KEEPER) as running:
        call = asyncio.create_task(running.failure("Import"))
        await eventually(lambda: running.server.in_progress == 1, "the call is in progress")
        await running.server.stop(0.1)
        assert ended == [1]
        assert (await call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_handler_that_ignores_cancellation_does_not_hold_the_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()
    cancelled = 0

    class Stubborn:
        @handler("Import")
        async def import_(self, request: pb.Animal) -> pb.Animal:
            nonlocal cancelled
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    cancelled += 1
            return pb.Animal()

    async with serving(Stubborn(), source=KEEPER) as running:
        call = asyncio.create_task(running.failure("Import"))
        await eventually(lambda: running.server.in_progress == 1, "the call is in progress")
        started = time.monotonic()
        await running.server.stop(0.1)
        assert time.monotonic() - started < 5
        assert "Keeper/Import: its handler ignores that it was cancelled" in caplog.text
        assert cancelled == 1
        await call
        release.set()
        await eventually(lambda: running.server.in_progress == 0, "the handler has returned")


async def test_a_thread_that_hangs_does_not_hold_the_stop() -> None:
    release, began = threading.Event(), threading.Event()

    class Hanging:
        @handler("Import")
        def import_(self, request: pb.Animal) -> pb.Animal:
            began.set()
            release.wait(60)
            return pb.Animal()

    try:
        async with serving(Hanging(), source=KEEPER) as running:
            call = asyncio.create_task(running.failure("Import"))
            await eventually(began.is_set, "the thread runs")
            started = time.monotonic()
            await running.server.stop(0.1)
            assert time.monotonic() - started < 5
            await call
            hanging = [
                thread for thread in threading.enumerate() if thread.name.startswith("pymicro-handler")
            ]
            assert hanging
            assert all(t.daemon for t in hanging)  # or the process could not end
    finally:
        release.set()


async def test_stop_may_be_hurried_and_repeated() -> None:
    class Slow:
        @handler("Import")
        async def import_(self, request: pb.Animal) -> pb.Animal:
            await asyncio.Event().wait()
            raise AssertionError

    async with serving(Slow(), source=KEEPER) as running:
        call = asyncio.create_task(running.failure("Import"))
        await eventually(lambda: running.server.in_progress == 1, "the call is in progress")
        patient = asyncio.create_task(running.server.stop(60))
        await eventually(lambda: bool(running.server.draining), "the first stop has begun")
        await running.server.stop(None)
        await asyncio.wait_for(patient, 5)
        await call
        await running.server.stop(1)


@pytest.mark.grpc_only("no call is made")
async def test_a_server_that_never_started_stops() -> None:
    server = Server(Config())
    server.set_serving(True)
    server.begin_drain()
    await server.stop(1)
    bound = Server(Config())
    await bound.bind("127.0.0.1:0")
    await bound.stop(1)


@pytest.mark.grpc_only("they are channel arguments of grpc-core")
async def test_the_users_options_win() -> None:
    limit: tuple[str, Any] = ("grpc.max_receive_message_length", 100)
    async with serving(Keeper(), options=[limit]) as running:
        assert await running.ask("Import", "ant") == ["ANT"]
        error = await running.failure("Import", "x" * 200)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.grpc_only("it is about grpc's accept loop")
async def test_an_accept_loop_that_breaks_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Keeper()) as running:
        watching = asyncio.create_task(running.server.wait_until_stopped())
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(headers_with_path(b"/a\xff/b"))
        try:
            await asyncio.wait({watching}, timeout=2)
            if watching.done():
                with pytest.raises(PymicroError, match="accept loop broke: UnicodeDecodeError"):
                    await watching
            else:  # a grpcio that does not break
                assert await running.ask("Import") == ["ANT"]
                watching.cancel()
                await asyncio.wait({watching})
        finally:
            writer.close()


async def test_waiting_for_the_end_may_be_given_up() -> None:
    async with serving(Keeper()) as running:
        watching = asyncio.create_task(running.server.wait_until_stopped())
        await running.ask("Import")
        watching.cancel()
        await asyncio.wait({watching})
        again = asyncio.create_task(running.server.wait_until_stopped())
        await running.ask("Import")
        await running.server.stop(1)
        await again
