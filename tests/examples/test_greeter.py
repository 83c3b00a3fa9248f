"""The examples, started as a user would start them."""

from __future__ import annotations

import asyncio
import re
import signal

import grpc
import pytest

import pymicro
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from pymicro import CallContext, Client, Service, handler
from reception.v1 import reception_pb2, reception_pb2_grpc
from tests.processes import ROOT, Process, Processes

LISTENS = r"greeter.*?(127\.0\.0\.1:\d+)"
STARTS = {
    "python file": ["examples/greeter/server.py"],
    "python -m pymicro run": ["-m", "pymicro", "run", "examples/greeter/server.py"],
}


@pytest.fixture
def server(processes: Processes) -> Process:
    """A running greeter."""
    process = processes.pymicro("run", "examples/greeter/server.py")
    process.wait_for(LISTENS)
    return process


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_the_client_finds_the_server_by_name_however_it_was_started(
    processes: Processes, start: list[str]
) -> None:
    server = processes.python(*start)
    address = server.wait_for(LISTENS)[1]
    client = processes.python("examples/greeter/client.py", "Ada")
    assert client.wait() == 0, client.report()
    assert client.stdout == [f"Hello Ada  ({address}, pid {server.pid})", "3", "2", "1"]
    assert server.stop() == 0, server.report()


def test_the_client_says_what_is_missing_when_there_is_no_server(processes: Processes) -> None:
    # Its calls have 2 s, which is as long as a new client waits for a service.
    client = processes.python("examples/greeter/client.py", "--client-first-wait=100ms")
    assert client.wait() == 1, client.report()
    assert len(client.stderr) == 1
    assert re.search(r"UNAVAILABLE: .*greeter", client.stderr[0])


def test_the_client_that_goes_on_for_ever_outlives_the_server_and_stops_when_told(
    processes: Processes, server: Process
) -> None:
    client = processes.python("examples/greeter/client.py", "--every", "0.1", "Ada")
    client.wait_for(r"^Hello Ada")
    client.wait_for(r"^Hello Ada")
    server.stop()
    client.wait_for(r"^UNAVAILABLE: .*greeter")
    second = processes.pymicro("run", "examples/greeter/server.py")
    second.wait_for(LISTENS)
    client.wait_for(rf"^Hello Ada  \(.*, pid {second.pid}\)")
    assert client.stop() == 0, client.report()


def test_the_client_takes_settings_as_flags(processes: Processes, server: Process) -> None:
    client = processes.python(
        "examples/greeter/client.py",
        "Ada",
        "--selector=static",
        STATIC_SELECTOR_DOMAIN_NAME="",
        STATIC_SELECTOR_PORT_NUMBER="1",
    )
    assert client.wait() == 1, client.report()
    assert "greeter:1" in client.report()


async def test_the_greeter_serves_all_four_shapes(server: Process, registry_folder: str) -> None:
    async with Client(registry_address=registry_folder) as client:
        stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        hello = await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))
        assert (hello.message, hello.pid) == ("Hello Ada", server.pid)

        counts = stub.CountDown(greeter_pb2.CountDownRequest(**{"from": 3}))
        assert [count.number async for count in counts] == [3, 2, 1]

        people = [greeter_pb2.HelloRequest(name=name) for name in ("Ada", "Grace")]
        assert (await stub.GreetAll(iter(people))).message == "Hello Ada, Grace"

        chat = stub.Chat()
        await chat.write(greeter_pb2.ChatMessage(text="one"))
        assert (await chat.read()).text == "You said: one"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF


async def test_an_idle_chat_is_told_that_the_greeter_stops(server: Process, registry_folder: str) -> None:
    async with Client(registry_address=registry_folder) as client:
        chat = greeter_pb2_grpc.GreeterStub(client.channel("greeter")).Chat()
        await chat.write(greeter_pb2.ChatMessage(text="one"))
        await chat.read()
        server.signal(signal.SIGTERM)
        assert (await chat.read()).text == "I have to go, good-bye"
        assert await chat.read() is grpc.aio.EOF
    # Far less than the grace of 20 s that a stream which does not end would take.
    assert await asyncio.to_thread(server.wait, 10) == 0


@pytest.mark.parametrize("start", [0, 10_001])
async def test_the_greeter_refuses_what_it_cannot_count(
    server: Process, registry_folder: str, start: int
) -> None:
    async with Client(registry_address=registry_folder) as client:
        stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        with pytest.raises(pymicro.InvalidArgument, match=str(start)):
            await anext(aiter(stub.CountDown(greeter_pb2.CountDownRequest(**{"from": start}))))


async def test_the_reception_has_its_guests_greeted(
    server: Process, processes: Processes, registry_folder: str
) -> None:
    reception = processes.pymicro("run", "examples/greeter/front.py")
    reception.wait_for(r"reception.*127\.0\.0\.1:\d+")
    async with Client(registry_address=registry_folder) as client:
        stub = reception_pb2_grpc.ReceptionStub(client.channel("reception"))
        reply = await stub.Welcome(reception_pb2.WelcomeRequest(guests=["Ada", "Grace"]))
        assert [greeting.message for greeting in reply.greetings] == ["Hello Ada", "Hello Grace"]
        assert {greeting.pid for greeting in reply.greetings} == {server.pid}

        with pytest.raises(pymicro.InvalidArgument, match="guest '': name is empty"):
            await stub.Welcome(reception_pb2.WelcomeRequest(guests=["Ada", ""]))


class Greeter:
    """A greeter that keeps what it learned of its caller."""

    def __init__(self) -> None:
        self.remaining: list[float | None] = []
        self.metadata: list[grpc.aio.Metadata] = []

    @handler
    async def say_hello(
        self, request: greeter_pb2.HelloRequest, context: CallContext
    ) -> greeter_pb2.HelloReply:
        self.remaining.append(context.time_remaining())
        self.metadata.append(context.metadata)
        return greeter_pb2.HelloReply(message=request.name)


async def test_the_reception_passes_deadline_and_metadata_on(
    processes: Processes, registry_folder: str
) -> None:
    reception = processes.pymicro("run", "examples/greeter/front.py")
    reception.wait_for(r"reception.*127\.0\.0\.1:\d+")
    greeter = Greeter()
    service = Service("greeter", registry_address=registry_folder)
    service.add(greeter, greeter_pb2, partial=True)
    async with service:
        stub = reception_pb2_grpc.ReceptionStub(service.channel("reception"))
        await stub.Welcome(
            reception_pb2.WelcomeRequest(guests=["Ada"]),
            timeout=3,
            metadata=[("x-request-id", "r-1"), ("authorization", "secret")],
        )
    (remaining,) = greeter.remaining
    assert remaining is not None
    # The caller's three seconds (each hop rounds up a little); a call's own default would be five.
    assert 0 < remaining <= 3.2
    assert greeter.metadata[0]["x-request-id"] == "r-1"
    assert "authorization" not in greeter.metadata[0]


def test_up_runs_greeters_and_the_reception_that_calls_them(processes: Processes) -> None:
    process = processes.pymicro("up", cwd=ROOT / "examples" / "greeter")
    for _ in range(3):
        process.wait_for(r"^(greeter\.[12]|reception) +\| .* on 127\.0\.0\.1:\d+")
    called = processes.pymicro("call", "reception", "Reception.Welcome", '{"guests": ["Ada", "Grace"]}')
    assert called.wait() == 0, called.report()
    assert "Hello Ada" in called.stdout[0]
    assert process.stop() == 0, process.report()
