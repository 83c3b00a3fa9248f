"""Around the calls of a synchronous client: interceptors, connectivity, closing, where it may be used."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pymicro
from pymicro import ConfigError, PymicroError, handler
from pymicro.sync import Client
from pymicro.testing import running
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc as rpc
from tests.sync.conftest import TRANSPORTS, Served, eventually, live

ANT = pb.Animal(name="ant")


class Details(grpc.ClientCallDetails):  # type: ignore[misc]
    def __init__(self, given: Any, more: tuple[str, str]) -> None:
        self.method = given.method
        self.timeout = given.timeout
        self.metadata = (*(given.metadata or ()), more)
        self.credentials = given.credentials
        self.wait_for_ready = given.wait_for_ready
        self.compression = given.compression


class Signs(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Of grpc's synchronous kind: adds metadata, and sees how the calls end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Any] = []

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(Details(details, ("signed", self.name)), request)
        call.add_done_callback(
            lambda done: self.seen.append((details.method.rpartition("/")[2], done.code()))
        )
        return call

    intercept_unary_unary = intercept_unary_stream = _intercept
    intercept_stream_unary = intercept_stream_stream = _intercept


def test_interceptors_of_grpcs_synchronous_kind_run_around_all_shapes(client: Client) -> None:
    inner, outer = Signs("inner"), Signs("outer")
    stub = rpc.KeeperStub(grpc.intercept_channel(client.channel("zoo"), outer, inner))
    names = stub.Import(pb.Animal(name="metadata")).names
    assert [name for name in names if name.startswith("signed=")] == ["signed=outer", "signed=inner"]
    assert stub.Import.future(ANT).result().name == "ANT"
    assert stub.Import.with_call(ANT)[1].code() is grpc.StatusCode.OK
    assert len(list(stub.Watch(pb.Query(name="n:3")))) == 3
    assert stub.Count(iter([ANT])).count == 1
    assert stub.Count.future(iter([ANT])).result().count == 1
    assert [one.name for one in stub.Talk(iter([ANT]))] == ["ANT"]
    for call in (stub.Import, stub.Import.with_call, lambda request: stub.Import.future(request).result()):
        with pytest.raises(pymicro.NotFound):
            call(pb.Animal(name="fail"))
    with pytest.raises(pymicro.NotFound):
        list(stub.Watch(pb.Query(name="fail:1")))
    for one in (inner, outer):
        eventually(lambda one=one: len(one.seen) == 11, lambda one=one: f"all ends are seen: {one.seen}")  # type: ignore[misc]
        assert {name for name, _ in one.seen} == {"Import", "Watch", "Count", "Talk"}
        assert [code for _, code in one.seen].count(grpc.StatusCode.NOT_FOUND) == 4


def test_opentelemetrys_synchronous_interceptor_runs_around_all_shapes(client: Client) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stub = rpc.KeeperStub(intercept_channel(client.channel("zoo"), client_interceptor(provider)))
    names = stub.Import(pb.Animal(name="metadata")).names
    assert any(name.startswith("traceparent=") for name in names)
    assert stub.Import.future(ANT).result().name == "ANT"
    assert len(list(stub.Watch(pb.Query(name="n:3")))) == 3
    assert stub.Count(iter([ANT])).count == 1
    assert [one.name for one in stub.Talk(iter([ANT]))] == ["ANT"]
    with pytest.raises(grpc.RpcError):
        stub.Import(pb.Animal(name="fail"))
    eventually(lambda: len(exporter.get_finished_spans()) == 6, "all spans have ended")
    ends = [
        span.attributes["rpc.grpc.status_code"] for span in exporter.get_finished_spans() if span.attributes
    ]
    assert sorted(str(end) for end in ends) == ["0"] * 5 + ["5"]
    provider.shutdown()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_interceptors_of_the_asynchronous_kinds_are_given_to_the_client(
    served: Served, transport: str
) -> None:
    seen = []
    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def ours(call: Any, proceed: Any) -> Any:
        seen.append((call.method.rpartition("/")[2], threading.current_thread().name, who.get()))
        call.map_requests(lambda request: pb.Animal(name=f"{request.name}s") if request == ANT else request)
        return await proceed()

    with Client(**served.settings, transport=transport, interceptors=[ours]) as client:
        stub = rpc.KeeperStub(client.channel("zoo", interceptors=[ours]))
        assert stub.Import(ANT).name == "ANTS"
        who.set("Ada")  # each call has the context of its caller
        assert len(list(stub.Watch(pb.Query(name="n:3")))) == 3
        assert [one.name for one in stub.Talk(iter([ANT, ANT]))] == ["ANTS", "ANTS"]
        assert stub.Count(iter([ANT, ANT])).count == 2
        with pytest.raises(TypeError, match="cannot be sent"):
            stub.Import({"name": "ant"})

        def requests() -> Any:
            message = pb.Animal()
            for legs in range(20):
                message.legs = legs
                yield message

        assert [one.legs for one in stub.Talk(requests())] == list(range(20))
    assert {name for name, *_ in seen} == {"Import", "Watch", "Talk", "Count"}
    assert {thread for _, thread, _ in seen} == {"pymicro sync clients"}
    assert [one for _, _, one in seen][1::2] == ["nobody"] + ["Ada"] * (len(seen) // 2 - 1)


class Odd(pymicro.NotFound):
    """An error class of a program's own, made in its own way."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_class_of_the_programs_own_stays_what_it_is(served: Served) -> None:
    async def fails(call: Any, proceed: Any) -> Any:
        raise Odd(1, 2)

    with Client(**served.settings, interceptors=[fails]) as client:
        stub = rpc.KeeperStub(client.channel("zoo"))
        with pytest.raises(Odd) as raised:
            stub.Import(ANT)
        assert isinstance(raised.value, grpc.Call)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert raised.value.details() == "1 and 2"
        assert stub.Import.future(ANT).details() == "1 and 2"


def test_an_interceptor_of_the_other_kind_is_told_where_it_belongs(served: Served) -> None:
    with pytest.raises(ConfigError, match=r"grpc.intercept_channel\(client.channel"):
        Client(**served.settings, interceptors=[Signs("x")])
    client = Client(**served.settings)
    with pytest.raises(ConfigError, match=r"grpc.intercept_channel\(client.channel"):
        client.channel("zoo", interceptors=[Signs("x")])


def test_a_call_that_would_wait_for_itself_is_an_error(client: Client) -> None:
    async def calls(call: Any, proceed: Any) -> Any:
        stub.Import(ANT)

    stub = rpc.KeeperStub(client.channel("zoo"))
    around = rpc.KeeperStub(client.channel("zoo", interceptors=[calls]))
    with pytest.raises(
        PymicroError, match=r"a call of zoo/.*/Import was made without `await` in the thread that"
    ):
        around.Import(ANT)


# Connectivity


def test_the_state_of_the_channel_is_told(client: Client) -> None:
    channel = client.channel("zoo")
    states: list[grpc.ChannelConnectivity] = []
    threads = set()

    def changed(state: grpc.ChannelConnectivity) -> None:
        threads.add(threading.current_thread().name)
        states.append(state)

    channel.subscribe(changed, try_to_connect=True)
    grpc.channel_ready_future(channel).result(timeout=30)
    eventually(lambda: grpc.ChannelConnectivity.READY in states, "it is ready")
    assert threads == {"pymicro sync callbacks"}
    channel.unsubscribe(changed)
    told = len(states)
    assert rpc.KeeperStub(channel).Import(ANT).name == "ANT"
    assert len(states) == told


# Closing


def test_a_closed_channel_ends_its_calls_and_no_others(client: Client) -> None:
    other = rpc.KeeperStub(client.channel("zoo"))
    with client.channel("zoo") as channel:
        stub = rpc.KeeperStub(channel)
        stream = stub.Watch(pb.Query(name="hang:closed"))
        assert next(stream).name == "first"
    with pytest.raises(pymicro.Cancelled) as raised:
        next(stream)
    assert raised.value.details() == "the channel to zoo was closed"
    for call in (stub.Import, stub.Import.future):
        with pytest.raises(ValueError, match="the channel to zoo is closed"):  # as grpc has it
            call(ANT)
    channel.close()
    eventually(lambda: live(other, "closed") == 0, "the service has heard of it")


def test_a_closed_client_ends_what_waits(served: Served) -> None:
    client = Client(**served.settings)
    stub = rpc.KeeperStub(client.channel("zoo"))
    future = stub.Import.future(pb.Animal(name="hang:client"), timeout=60)
    stream = stub.Watch(pb.Query(name="hang:client"))
    eventually(lambda: live(stub, "client") == 2, "the service works on both")
    client.close()
    assert future.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(pymicro.Cancelled):
        list(stream)
    client.close()
    with pytest.raises(PymicroError, match="this synchronous client is closed: make another one"):
        stub.Import(ANT)


def test_a_client_that_nobody_holds_is_closed(served: Served) -> None:
    client = Client(**served.settings)
    assert rpc.KeeperStub(client.channel("zoo")).Import(ANT).name == "ANT"
    inner = client._client
    assert inner.core.targets
    del client
    eventually(lambda: gc.collect() is not None and not inner.core.targets, "it is closed")


def test_a_client_that_cannot_be_opened_says_why(served: Served, tmp_path: Any) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    client = Client(**{**served.settings, "registry_address": str(taken)})
    for _ in range(2):
        with pytest.raises(PymicroError, match="registry"):
            rpc.KeeperStub(client.channel("zoo")).Import(ANT)


# What else a client does


def test_nodes_and_services(client: Client, served: Served) -> None:
    assert [node.address for node in client.nodes("zoo")] == [served.address]
    assert client.services() == ["zoo"]
    watch = client.watch_nodes("zoo")
    assert [node.address for node in next(watch)] == [served.address]
    watch.close()
    assert client.config.registry == "local"
    assert client.registry.name == "local"
    assert client.admin_address is None or client.admin_address.startswith("127.0.0.1:")


def test_an_address_takes_the_place_of_the_registry(served: Served) -> None:
    with Client(environ={}, registry="memory") as client:
        assert rpc.KeeperStub(client.channel("zoo", address=served.address)).Import(ANT).name == "ANT"
        with pytest.raises(ConfigError, match="a service's name is a text"):
            client.channel("")


# Beside event loops


async def test_it_works_where_a_loop_runs_as_in_a_notebook(client: Client) -> None:
    stub = rpc.KeeperStub(client.channel("zoo"))
    assert stub.Import(ANT).name == "ANT"
    assert [one.legs for one in stub.Watch(pb.Query(name="n:3"))] == [0, 1, 2]


async def test_grpc_in_two_loops_is_one_clear_error(served: Served) -> None:
    message = "gRPC works in one event loop of a process only"
    with Client(**served.settings) as ours:
        stub = rpc.KeeperStub(ours.channel("zoo"))
        async with pymicro.Client(**served.settings) as theirs:
            awaited = rpc.KeeperStub(theirs.channel("zoo"))
            assert (await awaited.Import(ANT)).name == "ANT"
            with pytest.raises(PymicroError, match=f"calls to zoo by a synchronous client .* {message}"):
                stub.Import(ANT)
        # The asynchronous one is gone, and now it is the other way round.
        assert stub.Import(ANT).name == "ANT"
        async with pymicro.Client(**served.settings) as theirs:
            with pytest.raises(PymicroError, match=f"beside calls to zoo by a synchronous client: {message}"):
                await rpc.KeeperStub(theirs.channel("zoo")).Import(ANT)
        service = pymicro.Service("aquarium", registry=pymicro.MemoryRegistry())
        with pytest.raises(PymicroError, match=f"the service aquarium cannot use gRPC beside .* {message}"):
            async with service:
                pass
    async with pymicro.Client(**served.settings) as theirs:
        assert (await rpc.KeeperStub(theirs.channel("zoo")).Import(ANT)).name == "ANT"


@pytest.mark.skipif("fast" not in TRANSPORTS, reason="pymicro-fast is not built")
async def test_over_fast_both_kinds_of_client_and_a_service_share_a_process(served: Served) -> None:
    """A handler that is a plain function makes synchronous calls, which inherit its deadline."""

    class Front:
        def __init__(self) -> None:
            self.stub = rpc.KeeperStub(ours.channel("zoo"))

        @handler("Import")
        def take(self, request: Any) -> Any:
            return self.stub.Import(request)

    class Blocking(Front):
        @handler("Import")
        async def take(self, request: Any) -> Any:
            return self.stub.Import(request)

    with Client(**served.settings, transport="fast") as ours:
        front, blocking = pymicro.Service("front"), pymicro.Service("blocking")
        front.add(Front(), pb.DESCRIPTOR.services_by_name["Keeper"], partial=True)
        blocking.add(Blocking(), pb.DESCRIPTOR.services_by_name["Keeper"], partial=True)
        async with running(front, blocking, transport="fast") as services:
            stub = rpc.KeeperStub(services.channel("front"))
            assert (await stub.Import(ANT)).name == "ANT"
            assert (await stub.Import(pb.Animal(name="remaining"), timeout=2)).legs <= 2100
            with pytest.raises(pymicro.Internal):
                await stub.Import(pb.Animal(name="fail"))
            # A coroutine would hold up its whole service.
            with pytest.raises(pymicro.Internal):
                await rpc.KeeperStub(services.channel("blocking")).Import(ANT)
            # As a test of synchronous code does it.
            direct = rpc.KeeperStub(ours.channel("front", address=services.nodes[0].address))
            assert (await asyncio.to_thread(direct.Import, ANT)).name == "ANT"


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e10, 10**30])
def test_a_timeout_of_ages_is_none(client: Client, timeout: float) -> None:
    stub = rpc.KeeperStub(client.channel("zoo", timeout=timeout))
    assert stub.Import(ANT, timeout=timeout).name == "ANT"
    assert stub.Import(ANT).name == "ANT"
    assert stub.Import.future(ANT).result(timeout=timeout).name == "ANT"
    assert client.nodes("zoo", timeout=timeout)


@pytest.mark.parametrize("timeout", [float("nan"), "5", b"5", []])
def test_a_timeout_that_is_no_number_is_refused(client: Client, timeout: Any) -> None:
    said = "timeout= is a number of seconds, and not"
    stub = rpc.KeeperStub(client.channel("zoo"))
    with pytest.raises(ValueError, match=said):
        stub.Import(ANT, timeout=timeout)
    with pytest.raises(ValueError, match=said):
        client.nodes("zoo", timeout=timeout)
    with pytest.raises(ConfigError, match=f"channel zoo: {said}"):
        client.channel("zoo", timeout=timeout)


def test_what_belongs_to_a_process_is_neither_copied_nor_pickled(client: Client) -> None:
    channel = client.channel("zoo")
    stub = rpc.KeeperStub(channel)
    future = stub.Import.future(pb.Animal(name="hang:copy"), timeout=100)
    for thing in (client, channel, future, stub.Import):
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=f"a {type(thing).__name__} of pymicro's cannot be copied"):
                copied(thing)
    with pytest.raises(TypeError, match="Make a client, its channels and stubs where they are used"):
        pickle.dumps(stub)
    gc.collect()  # copies that were thrown away would have ended the call, and the client
    assert not future.done()
    assert copy.copy(stub).Import(ANT).name == "ANT"
    assert future.cancel()


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_callback_that_raises_keeps_no_other_from_being_called(
    client: Client, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    stub = rpc.KeeperStub(client.channel("zoo"))

    def raises(_: object) -> None:
        raise error

    for _ in range(2):
        called = threading.Event()
        future = stub.Import.future(ANT)
        future.add_done_callback(raises)
        future.add_done_callback(lambda _, called=called: called.set())
        future.result()
        # The end may have come before a callback, which is then called here and now.
        assert called.wait(60)
    assert "a callback of zoo/" in caplog.text
