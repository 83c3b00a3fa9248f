"""A handler that holds the event loop is named in the log of its service."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Service, handler
from pymicro.base import watchdog
from pymicro.testing import running


class Greeter:
    """Holds the loop until `let_go` is set, which the log does."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        while not self.let_go.is_set():
            time.sleep(0.01)  # noqa: ASYNC251 - this is the fault
        return pb.HelloReply(message="at last")


class LetGo(logging.Handler):
    """Lets a handler go at the first line that names it."""

    def __init__(self, greeter: Greeter) -> None:
        super().__init__()
        self.greeter = greeter

    def emit(self, record: logging.LogRecord) -> None:
        if " in Greeter.say_hello (" in record.getMessage():
            self.greeter.let_go.set()


def watchdogs() -> int:
    return sum(thread.name == "pymicro watchdog" for thread in threading.enumerate())


@pytest.fixture
def greeter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Greeter]:
    monkeypatch.setattr(watchdog, "QUIET", 0.0)  # so that a loop that stays held is told at once
    greeter = Greeter()
    log, let_go = logging.getLogger("pymicro.loop"), LetGo(greeter)
    log.addHandler(let_go)
    yield greeter
    log.removeHandler(let_go)


async def test_a_handler_that_holds_the_loop_is_named(
    greeter: Greeter, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("greeter", loop_lag=0.05)
    service.add(greeter, pb, partial=True)
    async with running(service) as services:
        assert watchdogs() == 1
        stub = rpc.GreeterStub(services.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=30)).message == "at last"
    assert watchdogs() == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "pymicro.loop"]
    assert any(f" in Greeter.say_hello ({__file__}:" in line for line in lines)


async def test_service_and_client_in_one_loop_have_one_thread_and_leave_none() -> None:
    registry = MemoryRegistry()
    async with Client(registry=registry), Client(registry=registry):
        async with Service("greeter", registry=registry):
            assert watchdogs() == 1
        assert watchdogs() == 1
    assert watchdogs() == 0


async def test_the_setting_0_watches_nothing() -> None:
    registry = MemoryRegistry()
    async with Client(registry=registry, loop_lag=0), Service("greeter", registry=registry, loop_lag=0):
        assert watchdogs() == 0


async def test_what_holds_the_loop_before_the_service_serves_is_nobodys_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load() -> None:
        time.sleep(0.3)

    async with Service("greeter", registry=MemoryRegistry(), loop_lag=0.01, on_start=load):
        pass
    assert not [record for record in caplog.records if "load (" in record.getMessage()]
