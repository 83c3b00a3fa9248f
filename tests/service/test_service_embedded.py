"""Services inside a program: several in one process, calling each other."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from typing import Any

import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, MemoryRegistry, Service, handler


class Greeter:
    """Remembers what reached it; passes on to `onward` if it is given one."""

    def __init__(self, onward: Any = None) -> None:
        self.onward = onward
        self.remaining: list[float | None] = []
        self.metadata: list[dict[str, Any]] = []
        self.background: asyncio.Task[Any] | None = None
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        self.remaining.append(context.time_remaining())
        self.metadata.append(dict(tuple(context.metadata)))
        if self.onward is not None:
            if request.name == "later":
                self.background = asyncio.create_task(self._later(request))
                return pb.HelloReply(message="later")
            if request.name == "detached":
                with pymicro.detached():
                    return await self.onward.SayHello(request)
            return await self.onward.SayHello(request)
        if request.name == "absent":
            raise pymicro.NotFound("nobody of that name")
        if request.name == "wait":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return pb.HelloReply(message=f"Hello {request.name}", pid=os.getpid())

    async def _later(self, request: pb.HelloRequest) -> Any:
        await self.go.wait()  # until the handler has returned
        return await self.onward.SayHello(request)

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> Any:
        for number in range(getattr(request, "from"), 0, -1):
            yield pb.CountDownReply(number=number)

    @handler
    async def greet_all(self, requests: Any) -> pb.HelloReply:
        return pb.HelloReply(message=", ".join([request.name async for request in requests]))

    @handler
    async def chat(self, requests: Any) -> Any:
        async for request in requests:
            yield request


@contextlib.asynccontextmanager
async def pair(**settings: Any) -> Any:
    """`front` calls `back`; a client calls `front`."""
    registry = MemoryRegistry()
    back, front = Service("back", registry=registry), Service("front", registry=registry, **settings)
    behind = Greeter()
    before = Greeter(rpc.GreeterStub(front.channel("back")))
    back.add(behind, pb)
    front.add(before, pb)
    async with back, front, Client(registry=registry) as client:
        yield rpc.GreeterStub(client.channel("front")), before, behind


async def test_a_service_in_a_program_is_found_by_name() -> None:
    registry = MemoryRegistry()
    service = Service("greeter", version="2", metadata={"zone": "a"}, registry=registry)
    service.add(Greeter(), pb)
    async with service, Client(registry=registry) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest(name="Ada"))).message == "Hello Ada"
        (node,) = await client.nodes("greeter")
        assert node == service.node
        assert node.address == service.address
        assert node.version == "2"
        speaks = {"protocol": "grpc", "server": "grpc", "transport": "grpc"}  # as go-micro writes it
        assert service.admin_address is not None
        admin = service.admin_address.rpartition(":")[2]
        assert node.metadata == {**speaks, "keepalive": "10s", "zone": "a", "admin-port": admin}
        assert [endpoint.name for endpoint in node.endpoints] == [
            f"Greeter.{name}" for name in ("SayHello", "CountDown", "GreetAll", "Chat")
        ]
    assert await registry.services() == []
    with pytest.raises(pymicro.PymicroError, match="not running"):
        _ = service.address
    async with service:  # and again
        assert service.address


async def test_unmodified_generated_code_serves_and_calls() -> None:
    class Servicer(rpc.GreeterServicer):
        async def SayHello(self, request: Any, context: Any) -> Any:
            return pb.HelloReply(message=f"Hello {request.name}")

    registry = MemoryRegistry()
    first, second = Service("a", registry=registry), Service("b", registry=registry)
    rpc.add_GreeterServicer_to_server(Servicer(), first)
    second.add(Servicer())
    async with first, second, Client(registry=registry) as client:
        for name in ("a", "b"):
            stub = rpc.GreeterStub(client.channel(name))
            assert (await stub.SayHello(pb.HelloRequest(name="x"))).message == "Hello x"
            with pytest.raises(pymicro.Unimplemented):
                await stub.GreetAll(iter([]))


async def test_an_onward_call_has_the_time_the_caller_has_left() -> None:
    async with pair() as (stub, before, behind):
        await stub.SayHello(pb.HelloRequest(name="x"), timeout=60)
        assert before.remaining[-1] is not None
        assert behind.remaining[-1] is not None
        assert before.remaining[-1] > 50
        # grpc-core writes a timeout of seconds in hundredths, rounded up.
        assert behind.remaining[-1] <= 5.02  # the onward call's own default is less
        await stub.SayHello(pb.HelloRequest(name="x"), timeout=1)
        assert behind.remaining[-1] <= before.remaining[-1] + 0.02 <= 1.04
        started = time.monotonic()
        with pytest.raises(pymicro.DeadlineExceeded):
            await stub.SayHello(pb.HelloRequest(name="wait"), timeout=0.2)
        assert time.monotonic() - started < 4  # not the onward call's default


async def test_an_onward_call_carries_the_chosen_metadata_and_no_other() -> None:
    async with pair() as (stub, _, behind):
        await stub.SayHello(
            pb.HelloRequest(name="x"),
            metadata=(("traceparent", "00-1-2-01"), ("x-request-id", "7"), ("authorization", "secret")),
        )
        assert behind.metadata[-1]["traceparent"] == "00-1-2-01"
        assert behind.metadata[-1]["x-request-id"] == "7"
        assert "authorization" not in behind.metadata[-1]
    async with pair(forward_metadata="Authorization") as (stub, _, behind):
        await stub.SayHello(
            pb.HelloRequest(name="x"), metadata=(("authorization", "a"), ("x-request-id", "7"))
        )
        assert behind.metadata[-1]["authorization"] == "a"
        assert "x-request-id" not in behind.metadata[-1]


async def test_detached_calls_inherit_nothing() -> None:
    async with pair() as (stub, _, behind):
        metadata = (("x-request-id", "7"),)
        await stub.SayHello(pb.HelloRequest(name="detached"), timeout=1, metadata=metadata)
        assert behind.remaining[-1] is not None
        assert behind.remaining[-1] > 2
        assert "x-request-id" not in behind.metadata[-1]


async def test_a_task_that_outlives_its_handler_is_not_bound_by_its_caller() -> None:
    async with pair() as (stub, before, behind):
        reply = await stub.SayHello(
            pb.HelloRequest(name="later"), timeout=1, metadata=(("x-request-id", "7"),)
        )
        assert reply.message == "later"
        before.go.set()
        assert before.background is not None
        await before.background
        assert behind.remaining[-1] is not None
        assert behind.remaining[-1] > 2
        assert "x-request-id" not in behind.metadata[-1]


async def test_an_onward_error_nobody_catches_is_internal_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (stub, _, _):
        with pytest.raises(pymicro.Internal) as caught:
            await stub.SayHello(pb.HelloRequest(name="absent"))
        assert "nobody of that name" not in str(caught.value)
        assert "back/greeter.v1.Greeter/SayHello" not in str(caught.value)
    # Stopped: the line is written after the answer has gone out.
    assert "back/greeter.v1.Greeter/SayHello" in caplog.text


async def test_cancelling_the_first_call_cancels_the_onward_one() -> None:
    async with pair() as (stub, _, behind):
        call = stub.SayHello(pb.HelloRequest(name="wait"), timeout=60)
        await behind.waiting.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await behind.cancelled.wait()


async def test_init_twice_with_the_same_flags_is_nothing_and_with_others_an_error() -> None:
    service = Service("greeter", registry=MemoryRegistry())
    service.init(["--stop-grace", "3s"])
    service.init(["--stop-grace=3"])
    assert service.config.stop_grace == 3
    with pytest.raises(pymicro.ConfigError, match="other settings"):
        service.init(["--stop-grace", "4s"])
    with pytest.raises(pymicro.ConfigError, match="--stop-grce"):
        Service("greeter").init(["--stop-grce", "4s"])


def test_keywords_that_cannot_be_used_are_named() -> None:
    with pytest.raises(pymicro.ConfigError, match="stop_grace"):
        Service("greeter", stop_grace="soon").init([])  # type: ignore[arg-type]
    with pytest.raises(pymicro.ConfigError, match="did you mean 'stop_grace'"):
        Service("greeter", stop_grce=3).init([])  # type: ignore[call-arg]
    with pytest.raises(pymicro.ConfigError, match="neither a registry's name nor a registry"):
        Service("greeter", registry=7)  # type: ignore[arg-type]
    with pytest.raises(pymicro.ConfigError, match="needs a name"):
        Service("")
    with pytest.raises(pymicro.ConfigError, match="given twice"):
        Service("greeter", version="1", server_version="2")


def test_a_flag_beats_the_environment_beats_code_but_not_an_instance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MICRO_REGISTRY", "memory")
    monkeypatch.setenv("MICRO_SERVER_VERSION", "env")
    service = Service("greeter", version="code", registry="local")
    service.init(["--server-name", "flagged"])
    assert service.name == "flagged"
    assert service.config.server_version == "env"
    assert service.config.registry == "memory"
    registry = MemoryRegistry()
    given = Service("greeter", registry=registry)
    given.init(["--registry", "local"])
    assert given.client.registry is registry


async def test_unicode_names_work_from_end_to_end(registry_folder: str) -> None:
    name = "grüße/ñandú 你好"
    service = Service(name, registry_address=registry_folder)
    service.add(Greeter(), pb)
    async with service, Client(registry_address=registry_folder) as client:
        stub = rpc.GreeterStub(client.channel(name))
        assert (await stub.SayHello(pb.HelloRequest(name="x"))).message == "Hello x"
        assert await client.services() == [name]


async def test_ipv6_and_a_given_address_are_registered_as_they_are_bound() -> None:
    registry = MemoryRegistry()
    service = Service("greeter", registry=registry, server_address="[::1]:0")
    service.add(Greeter(), pb)
    async with service, Client(registry=registry) as client:
        assert service.node.address.startswith("[::1]:")
        stub = rpc.GreeterStub(client.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest(name="x"))).message == "Hello x"
    everywhere = Service(
        "greeter", registry=registry, server_address="0.0.0.0:0", server_advertise="greeter.example"
    )
    everywhere.add(Greeter(), pb)
    async with everywhere:
        port = everywhere.address.rpartition(":")[2]
        assert everywhere.address == f"0.0.0.0:{port}"
        assert everywhere.node.address == f"greeter.example:{port}"


async def test_a_registry_that_is_away_at_the_start_is_registered_with_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemoryRegistry):
        fails = 2
        registered = asyncio.Event()

        async def register(self, node: pymicro.Node) -> None:
            if self.fails:
                self.fails -= 1
                raise pymicro.RegistryError("away")
            await super().register(node)
            self.registered.set()

    registry = Away()
    service = Service("greeter", registry=registry)
    service.add(Greeter(), pb)
    async with service:
        async with asyncio.timeout(20):
            await registry.registered.wait()
        assert await registry.services() == ["greeter"]
    complaints = [
        record for record in caplog.records if "could not be registered: away" in record.getMessage()
    ]
    assert [record.levelname for record in complaints if record.levelname != "DEBUG"] == ["WARNING"]


async def test_a_registry_that_can_never_take_the_node_ends_the_start() -> None:
    class Refusing(MemoryRegistry):
        asked = 0
        accepts = False

        async def register(self, node: pymicro.Node) -> None:
            self.asked += 1
            if not self.accepts:
                raise pymicro.ConfigError("a name like this cannot be a label")
            await super().register(node)

    registry = Refusing()
    service = Service("greeter", registry=registry)
    service.add(Greeter(), pb)
    with pytest.raises(pymicro.ConfigError, match="cannot be a label"):
        async with service:
            pass
    assert registry.asked == 1


async def test_a_service_that_runs_outlives_a_renewal_that_its_registry_calls_impossible(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Changing(MemoryRegistry):
        asked = 0
        again = asyncio.Event()

        async def register(self, node: pymicro.Node) -> None:
            self.asked += 1
            if self.asked == 2:
                raise pymicro.ConfigError("the labels are gone")
            await super().register(node)
            if self.asked > 2:
                self.again.set()

    registry = Changing()
    service = Service("greeter", registry=registry, register_interval=1)
    service.add(Greeter(), pb)
    async with service, asyncio.timeout(20):
        await registry.again.wait()
    assert "the labels are gone" in caplog.text


async def test_in_a_pod_without_a_registry_there_is_one_warning_and_everybody_is_listened_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, registry_folder: str
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    service = Service("greeter", registry_address=registry_folder, server_address="127.0.0.1:0")
    service.add(Greeter(), pb)
    async with service:
        pass
    assert [record.getMessage() for record in caplog.records if "MICRO_REGISTRY" in record.getMessage()] == [
        "this is a pod of Kubernetes, and the registry is the default, local: set MICRO_REGISTRY"
    ]
    caplog.clear()
    async with Client(registry="local", registry_address=registry_folder), Client(selector="static"):
        pass
    assert "MICRO_REGISTRY" not in caplog.text


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
async def test_a_call_is_one_line_at_debug_on_each_side_and_none_at_info(
    caplog: pytest.LogCaptureFixture, level: str
) -> None:
    registry = MemoryRegistry()
    service = Service("greeter", registry=registry)
    service.add(Greeter(), pb)
    with caplog.at_level(level, "pymicro"):
        async with service, Client(registry=registry) as client:
            await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="x"))
    sides = sorted(record.name for record in caplog.records if "SayHello" in record.getMessage())
    assert sides == (["pymicro.client", "pymicro.server"] if level == "DEBUG" else [])


def test_a_service_s_channel_takes_what_a_client_s_does() -> None:
    ours = inspect.signature(Service.channel).parameters
    assert list(ours) == list(inspect.signature(Client.channel).parameters)


async def test_run_where_a_loop_runs_says_what_to_write_instead() -> None:
    service = Service("greeter", registry="memory")
    with pytest.raises(
        pymicro.PymicroError, match=r"^run\(\) of greeter makes an event loop, and one runs here"
    ):
        service.run()
    async with service:  # which is what the error says; nothing is left of the attempt
        pass


async def test_run_in_another_thread_says_what_to_write_instead() -> None:
    service = Service("greeter", registry="memory")
    with pytest.raises(
        pymicro.PymicroError, match=r"only the main thread can: call it there, or write `async with"
    ):
        await asyncio.to_thread(service.run)
