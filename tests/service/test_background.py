"""Background tasks: they belong to a life of the service, and no failure of one ends anything."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import signal
import threading
import traceback
from contextlib import asynccontextmanager
from textwrap import dedent
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, ConfigError, MemoryRegistry, NoCall, PymicroError, Service, current, handler
from pymicro.runtime import background
from pymicro.testing import running
from tests.greeting import Greeter, greeter
from tests.processes import Processes
from tests.serving.serving import eventually

ADA = pb.HelloRequest(name="Ada")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that fails runs again at once."""
    monkeypatch.setattr(background, "SOONEST", 0.0)
    monkeypatch.setattr(background, "FIRST", 0.001)
    monkeypatch.setattr(background, "LONGEST", 0.001)


async def test_it_runs_again_and_again_until_the_service_stops() -> None:
    service, _ = greeter()
    runs = 0

    @service.background(every=0.01)
    async def count() -> None:
        nonlocal runs
        runs += 1

    async with service:
        await eventually(lambda: runs >= 3, "three runs")
    last = runs
    async with service:  # the next life has it too
        await eventually(lambda: runs >= last + 3, "three runs more")


async def test_without_a_period_it_runs_once() -> None:
    service, _ = greeter()
    runs: list[Service] = []
    names: set[str] = set()

    async def note(given: Service) -> None:
        runs.append(given)

    assert service.background(note) is note
    service.background(functools.partial(note))
    async with service:
        await eventually(lambda: len(runs) == 2, "one run of each")
        names |= {task.get_name() for task in asyncio.all_tasks()}
    assert runs == [service, service]
    assert not any(name.startswith("background task") for name in names)


async def test_it_begins_when_the_service_can_be_called_and_before_it_is_registered() -> None:
    registry = MemoryRegistry()
    order: list[Any] = []
    called = asyncio.Event()

    @asynccontextmanager
    async def lifespan(given: Any) -> Any:
        order.append("lifespan opens")
        yield "the state"
        order.append("lifespan closes")

    service = Service(
        "greeter",
        registry=registry,
        lifespan=lifespan,
        on_start=lambda: order.append("on_start"),
        on_stop=lambda: order.append("on_stop"),
    )
    service.add(Greeter(), pb, partial=True)

    @service.background
    async def work() -> None:
        async with Client(registry=registry) as client:
            stub = rpc.GreeterStub(client.channel("greeter", address=service.address))
            order.append((await stub.SayHello(ADA)).message)
        order.append(service.state)
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append(f"cancelled with {service.state}")

    @service.health_check  # it runs before the registration
    async def check() -> None:
        await called.wait()
        nodes = await service.client.nodes("greeter", timeout=0.1)
        order.append(f"{len(nodes)} nodes")

    async with service:
        assert order == ["lifespan opens", "on_start", "Hello Ada", "the state", "0 nodes"]
    assert order[-3:] == ["cancelled with the state", "lifespan closes", "on_stop"]


async def test_at_the_drain_it_is_cancelled_and_has_the_grace_to_end() -> None:
    service, own = greeter(stop_grace=60)
    order: list[str] = []
    cancelled = asyncio.Event()

    @service.background
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await own.begun.wait()
            await asyncio.sleep(0)
            order.append("cleaned up")

    async with Client(environ={}) as client:
        async with service:
            stub = rpc.GreeterStub(client.channel("greeter", address=service.address))

            async def call() -> None:
                await stub.SayHello(pb.HelloRequest(name="slow"), timeout=60)
                order.append("answered")

            calling = asyncio.create_task(call())
            await own.begun.wait()
            assert not cancelled.is_set()

            async def let_go() -> None:
                await cancelled.wait()  # the drain has begun, and the call goes on
                order.append("cancelled")
                own.go.set()

            letting = asyncio.create_task(let_go())
        await calling
        await letting
    assert order[0] == "cancelled"
    assert sorted(order[1:]) == ["answered", "cleaned up"]


@pytest.mark.parametrize("every", [None, 0.001])
@pytest.mark.usefixtures("soon")
async def test_a_failure_ends_neither_the_series_nor_the_service(
    every: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = greeter()
    failures = [OSError("the disk is full"), SystemExit(7), asyncio.CancelledError()]
    done, beside = asyncio.Event(), 0

    @service.background(every=every, name="the store")
    async def store() -> None:
        if failures:
            raise failures.pop(0)
        done.set()

    @service.background(every=0.001)
    async def other() -> None:
        nonlocal beside
        beside += 1

    async with service:
        await done.wait()
        seen = beside
        await eventually(lambda: beside > seen, "the other one goes on")
        assert (await rpc.GreeterStub(service.channel("greeter")).SayHello(ADA)).message == "Hello Ada"
    told = [record for record in caplog.records if record.name == "pymicro.background"]
    assert [record.levelname for record in told] == ["ERROR"] * 3
    for record in told:
        line = r"background task 'the store' of greeter failed; it runs again in \d+\.\d s"
        assert re.fullmatch(line, record.getMessage())
    raised = [record.exc_info[1] for record in told if record.exc_info]
    assert [type(exc) for exc in raised] == [OSError, SystemExit, asyncio.CancelledError]
    # Its traceback leads into the function.
    assert "store" in [frame.name for frame in traceback.extract_tb(raised[0].__traceback__)]  # type: ignore[union-attr]


@pytest.mark.usefixtures("soon")
async def test_one_that_always_fails_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service, _ = greeter()
    runs = 0

    @service.background
    async def broken() -> None:
        nonlocal runs
        runs += 1
        raise ValueError("never")

    @service.background(every=0.001)
    async def broken_too() -> None:
        raise ValueError("never either")

    async with service:
        await eventually(lambda: runs > 100, "a hundred failures")
    lines = [record.getMessage() for record in caplog.records if record.name == "pymicro.background"]
    for name in ("'broken'", "'broken_too'"):
        own = [line for line in lines if name in line]
        assert len(own) == 20
        assert own[-1] == f"background task {name} of greeter failed more often, and not named for a while"


async def test_a_log_that_raises_does_not_end_it(soon: None) -> None:
    service, _ = greeter()
    runs = 0

    class Raises(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("no")

    @service.background
    async def broken() -> None:
        nonlocal runs
        runs += 1
        raise ValueError("never")

    log, filtering = logging.getLogger("pymicro.background"), Raises()
    log.addFilter(filtering)
    try:
        async with service:
            await eventually(lambda: runs > 3, "it goes on")
    finally:
        log.removeFilter(filtering)


async def test_two_runs_never_overlap_and_those_that_were_missed_do_not_pile_up() -> None:
    service, _ = greeter()
    begun: list[float] = []
    at_once = most = 0
    loop = asyncio.get_running_loop()
    release = asyncio.Event()

    @service.background(every=0.1)
    async def slow() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        begun.append(loop.time())
        if len(begun) == 1:
            await release.wait()
        at_once -= 1

    @service.background(every=0.1)
    async def clock() -> None:
        clock_runs.append(loop.time())

    clock_runs: list[float] = []
    async with service:
        await eventually(lambda: len(clock_runs) > 5, "five turns pass")
        assert len(begun) == 1
        release.set()
        await eventually(lambda: len(begun) >= 4, "it goes on")
    assert most == 1
    # Had the turns that passed piled up, the runs after it would follow each other at once.
    assert begun[3] - begun[1] >= 2 * 0.09 - 0.01


async def test_one_that_ignores_its_cancellation_is_named_and_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CLEANUP", 0.05)
    service, _ = greeter(stop_grace=0)
    go, ended = asyncio.Event(), asyncio.Event()

    @service.background
    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    async with service:
        pass
    assert "background task 'stubborn' of greeter ignores that it was cancelled" in caplog.text
    go.set()
    await ended.wait()


@pytest.mark.parametrize("every", [None, 0.001])
async def test_one_that_cancels_itself_has_failed_and_comes_again(
    every: float | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST", 0.001)
    monkeypatch.setattr(background, "SOONEST", 0.001)
    service, _ = greeter()
    runs = 0
    third = asyncio.Event()

    @service.background(every=every)
    async def rash() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            third.set()
            await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with service:
        await third.wait()
    assert runs == 3
    assert "background task 'rash' of greeter failed; it runs again" in caplog.text


async def test_what_fails_while_it_is_cancelled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    service, _ = greeter()
    begun = asyncio.Event()

    @service.background(every=0.001)
    async def flush() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise OSError("the disk is full")

    async with service:
        await begun.wait()
    (record,) = (record for record in caplog.records if record.name == "pymicro.background")
    assert record.getMessage() == "background task 'flush' of greeter failed while it was cancelled"
    assert record.exc_info
    assert isinstance(record.exc_info[1], OSError)


class Spawning:
    """Starts work for each call that outlives it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.after: list[Any] = []
        self.go = asyncio.Event()

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        self.service.background(functools.partial(self._later, request.name))
        return pb.HelloReply(message="soon")

    async def _later(self, name: str) -> None:
        await self.go.wait()
        try:
            current()
        except NoCall:
            self.after.append((name, self.service.node.id))


async def test_a_handler_starts_work_that_outlives_its_call_and_belongs_to_its_node() -> None:
    service = Service("greeter")
    own = Spawning(service)
    service.add(own, pb, partial=True)
    async with running(service, service, balancer="round_robin") as services:
        channel = services.channel("greeter")
        await channel.channel_ready()
        while not all(node.calls for node in services.nodes):
            await rpc.GreeterStub(channel).SayHello(ADA)
        own.go.set()
        ids = {node.node.id for node in services.nodes}
        await eventually(lambda: {one[1] for one in own.after} == ids, "work of both nodes is done")
    own.after.clear()
    async with running(service) as services:  # the next life knows nothing of it
        assert (await rpc.GreeterStub(services.channel("greeter")).SayHello(ADA)).message == "soon"
        await eventually(lambda: len(own.after) == 1, "its own work is done")


async def test_another_thread_starts_work_too() -> None:
    service, _ = greeter()
    ran: list[threading.Thread] = []
    done = asyncio.Event()

    async def work() -> None:
        ran.append(threading.current_thread())
        done.set()

    async with service:
        await asyncio.to_thread(service.background, work)
        await done.wait()
    assert ran == [threading.main_thread()]


async def test_hooks_add_work_for_this_life_only() -> None:
    service, _ = greeter()
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    @service.on_start
    def start() -> None:
        service.background(work)

    for life in (1, 2, 3):
        async with service:
            await eventually(lambda life=life: runs == life, "one run in each life")  # type: ignore[misc]


async def test_a_service_that_stops_starts_no_more_work() -> None:
    service, _ = greeter()
    told: list[str] = []

    async def work() -> None: ...

    @service.on_stop
    def stop() -> None:
        with pytest.raises(PymicroError) as raised:
            service.background(work)
        told.append(str(raised.value))

    async with service:
        pass
    assert told == ["background task 'work': greeter is stopping, and starts none any more"]


async def test_work_ends_with_a_start_that_fails_and_with_a_crash() -> None:
    service, _ = greeter()
    begun, ended = asyncio.Event(), 0

    @service.background
    async def work() -> None:
        nonlocal ended
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    class Refuses(MemoryRegistry):
        async def register(self, node: Any) -> None:
            await begun.wait()
            raise ConfigError("no")

    failing, _ = greeter(Refuses())
    failing.background(work)
    with pytest.raises(ConfigError, match="no"):
        async with failing:
            pass
    assert ended == 1
    begun.clear()
    async with running(service) as services:
        await begun.wait()
        await services.node.vanish()
        assert ended == 2


def plain() -> None: ...


async def generator() -> Any:
    yield


class Callable:
    async def __call__(self) -> None: ...


def wrapped() -> Any:
    async def inner() -> None: ...

    @functools.wraps(inner)
    def wrapper() -> Any:
        return inner()

    return wrapper


@pytest.mark.parametrize(
    "function", [Callable(), Callable().__call__, functools.partial(Callable()), wrapped()]
)
async def test_whatever_makes_a_coroutine_is_taken(function: Any) -> None:
    Service("greeter").background(function)


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        (
            plain,
            {},
            r"background task 'plain': <function plain.* is no coroutine function; write `async def`",
        ),
        (generator, {}, "is no coroutine function"),
        (Callable, {}, "is no coroutine function"),
        (7, {}, "background task 'int': 7 is no coroutine function"),
        (Callable(), {"every": 0}, "background task 'Callable': every=0 is no time in seconds"),
        (Callable(), {"every": 1e-300}, "every=1e-300 is no time in seconds"),
        (Callable(), {"every": float("nan")}, "every=nan is no time"),
        (Callable(), {"every": "60", "name": "clean"}, "background task 'clean': every='60' is no time"),
    ],
)
def test_what_cannot_run_is_refused_at_once(function: Any, options: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Service("greeter").background(function, **options)


def test_a_coroutine_instead_of_its_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="give the function, not a coroutine of it"):
        Service("greeter").background(Callable()())  # type: ignore[call-overload]


PROGRAM = """
    import asyncio, sys
    from pymicro import Service, handler
    from greeter.v1 import greeter_pb2 as pb

    class Greeter:
        @handler
        async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply: ...

    service = Service("greeter")
    service.add(Greeter(), pb, partial=True)

    def say(text):
        print(text, flush=True)

    @service.on_stop
    def stop():
        say("on_stop")

    @service.background
    async def work():
        say("at work")
        try:
            await asyncio.Event().wait()
        finally:
            say("cancelled")
            if "stays" in sys.argv:
                await asyncio.sleep(60)

    if __name__ == "__main__":
        service.init([])
        service.run()
"""


@pytest.mark.parametrize("stays", [False, True])
def test_a_signal_ends_it_and_a_second_one_does_not_wait(
    processes: Processes, tmp_path: Any, stays: bool
) -> None:
    (tmp_path / "app.py").write_text(dedent(PROGRAM))
    more = ["stays"] if stays else []
    process = processes.python(
        str(tmp_path / "app.py"), *more, PYTHONPATH="examples/greeter", MICRO_DRAIN_DELAY="0"
    )
    process.wait_for("registered")
    process.signal(signal.SIGTERM)
    process.wait_for("cancelled")
    if stays:
        process.signal(signal.SIGTERM)
    assert process.wait(15) == (128 + signal.SIGTERM if stays else 0), process.report()
    assert process.stdout == ["at work", "cancelled", "on_stop"]
