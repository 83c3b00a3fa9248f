"""What a service says of its own health: its node leaves like one that stops, serves on, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, ConfigError, MemoryRegistry, Node, NodeSet, RegistryError, Service
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.runtime import checks, health
from pymicro.settings.config import load
from pymicro.testing import running
from tests.discovery.registries.etcd_support import etcd_registry
from tests.discovery.registries.mdns_support import free_port
from tests.discovery.registries.mdns_support import make as mdns
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.greeting import greeter
from tests.kubernetes.kube_contract import kubernetes
from tests.processes import Processes
from tests.serving.serving import eventually

NAMES = ("", "greeter.v1.Greeter")
SERVING, NOT_SERVING = 1, 2


# Every registry

# Makes the registry of one more process.
Maker = Callable[[], Any]


@contextlib.asynccontextmanager
async def memory(tmp_path: Path) -> AsyncIterator[Maker]:
    yield lambda: MemoryRegistry(load({"registry_address": [str(tmp_path)]}, environ={}))


@contextlib.asynccontextmanager
async def local(tmp_path: Path) -> AsyncIterator[Maker]:
    yield lambda: LocalRegistry(load({"registry_address": [str(tmp_path / "nodes")]}, environ={}))


@contextlib.asynccontextmanager
async def link(tmp_path: Path) -> AsyncIterator[Maker]:
    port = free_port()
    yield lambda: mdns(port)


@contextlib.asynccontextmanager
async def etcd(tmp_path: Path) -> AsyncIterator[Maker]:
    folder = tmp_path / "etcd"
    folder.mkdir()
    with Etcd(folder) as server:
        yield lambda: etcd_registry(server.address)


@contextlib.asynccontextmanager
async def patched_pods(tmp_path: Path) -> AsyncIterator[Maker]:
    async with FakeKubeApi() as api:
        names = ["one", "two", "three"]
        for name in names:
            api.create(pod(name, "127.0.0.1"))
        yield lambda: kubernetes(api.url, names.pop(), ip="127.0.0.1", registry_advertise="patch")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines about health, from info up."""
    caplog.set_level(logging.INFO, "pymicro")

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "pymicro.health"]

    return lines


async def status(address: str, name: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)).status)


async def sees(client: Client, *nodes: Node) -> None:
    """The nodes of `greeter` become these."""
    wanted = NodeSet.of(nodes)
    async with contextlib.aclosing(client.watch_nodes("greeter")) as sets:  # type: ignore[type-var]
        async with asyncio.timeout(20):
            async for found in sets:
                if {node.key for node in found} == {node.key for node in wanted}:
                    return


@pytest.mark.parametrize("place", [memory, local, link, etcd, patched_pods], ids=lambda place: place.__name__)
async def test_a_node_that_is_not_well_leaves_and_serves_what_still_comes(
    place: Any, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    async with place(tmp_path) as make:
        (first, one), (second, other) = (
            greeter(make(), server_version="1"),
            greeter(make(), server_version="1"),
        )
        async with (
            first,
            second,
            Client(registry=make(), client_retries=0) as client,
            grpc.aio.insecure_channel(first.address) as direct,
        ):
            await sees(client, first.node, second.node)
            stub = rpc.GreeterStub(client.channel("greeter"))
            away = rpc.GreeterStub(direct)
            slow = away.SayHello(pb.HelloRequest(name="slow"), timeout=30)
            await one.begun.wait()

            first.set_health(False, "database is down")
            assert [await status(first.address, name) for name in NAMES] == [NOT_SERVING] * 2
            assert await status(first.address, "liveness") == SERVING
            await sees(client, second.node)
            assert first.health_problems == {"": "database is down"}
            # Clients choose others, from the moment that they have heard of it.
            known = one.served
            for _ in range(20):
                await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=10)
            assert (one.served, other.served) == (known, 20)
            # What was in flight ends well, and what comes all the same is served.
            assert (await away.SayHello(pb.HelloRequest(name="late"), timeout=10)).message == "Hello late"
            one.go.set()
            assert (await slow).message == "Hello slow"

            first.set_health(True)
            await sees(client, first.node, second.node)
            assert [await status(first.address, name) for name in NAMES] == [SERVING] * 2
            assert first.health_problems == {}
            known = one.served
            async with asyncio.timeout(20):
                while one.served < known + 5:
                    await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=10)
        gone, back = said()
        assert gone == "greeter is NOT_SERVING and leaves the registry: database is down"
        assert re.fullmatch(r"greeter is SERVING again, after \d+\.\d s", back)


async def test_a_service_that_stops_while_it_is_not_well_stays_away(tmp_path: Path) -> None:
    async with local(tmp_path) as make:
        service, _ = greeter(make())
        async with Client(registry=make()) as client:
            async with service:
                await sees(client, service.node)
                service.set_health(False)
                await sees(client)
                # It would be back a second later.
                service.set_health(True)
            await sees(client)
            # What was said holds no longer than its life.
            async with service:
                await sees(client, service.node)


class Away(MemoryRegistry):
    """A registry that answers only if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked: Counter[str] = Counter()

    async def register(self, node: Node) -> None:
        self.asked["register"] += 1
        if self.away:
            raise RegistryError("nobody is there")
        await super().register(node)

    async def deregister(self, node: Node) -> None:
        self.asked["deregister"] += 1
        if self.away:
            raise RegistryError("nobody is there")
        await super().deregister(node)


async def test_a_registry_that_is_away_is_asked_until_it_has_let_go_of_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Away()
    service, _ = greeter(registry)
    async with service, Client(registry=registry) as client:
        await sees(client, service.node)
        registry.away = True
        service.set_health(False, "database is down")
        assert await status(service.address) == NOT_SERVING
        await eventually(lambda: registry.asked["deregister"] >= 3, "it is asked again and again")
        registry.away = False
        await sees(client)
        asked = registry.asked["deregister"]
        # And the other way round.
        registry.away = True
        service.set_health(True)
        await eventually(lambda: registry.asked["register"] >= 4, "it is asked again and again")
        registry.away = False
        await sees(client, service.node)
        assert registry.asked["deregister"] == asked
    lines = [record.getMessage() for record in caplog.records if "could not be" in record.getMessage()]
    assert [line.partition("could not be ")[2] for line in lines if "trying" in line] == [
        "deregistered: nobody is there; trying again",
        "registered: nobody is there; trying again",
    ]


class Slow(MemoryRegistry):
    """Its second registration hangs until it is cancelled; `deregister` as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.registrations = 0
        self.hangs = asyncio.Event()
        self.open = asyncio.Event()
        self.asking = 0

    async def register(self, node: Node) -> None:
        self.registrations += 1
        if self.registrations == 2:
            self.hangs.set()
            await asyncio.Event().wait()
        self.asking += 1
        assert self.asking == 1, "one thing at a time"
        await super().register(node)
        self.asking -= 1

    async def deregister(self, node: Node) -> None:
        self.asking += 1
        assert self.asking == 1, "one thing at a time"
        if self.registrations > 1:
            await self.open.wait()
        await super().deregister(node)
        self.asking -= 1


async def test_a_registry_that_hangs_in_one_wish_hears_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "AWAY", 0.01)
    monkeypatch.setattr(health, "LONGEST_AWAY", 0.01)
    registry = Slow()
    service, _ = greeter(registry)
    async with service, Client(registry=registry) as client:
        await sees(client, service.node)
        service.set_health(False)
        await sees(client)
        service.set_health(True)
        await registry.hangs.wait()
        service.set_health(False)  # this registration is given up
        service.set_health(True)  # and while it is taken back, it is wanted again
        await eventually(lambda: not service.health_problems, "it is well")
        registry.open.set()
        await sees(client, service.node)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 brought eager tasks")
async def test_eager_tasks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "AWAY", 0.01)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    try:
        registry = MemoryRegistry()
        service, _ = greeter(registry)
        service.health_check(every=0.01)(says_no)
        async with service, Client(registry=registry) as client:
            await sees(client)
        service, _ = greeter(registry)
        async with service, Client(registry=registry) as client:
            for _ in range(3):
                service.set_health(False)
                await sees(client)
                service.set_health(True)
                await sees(client, service.node)
    finally:
        loop.set_task_factory(None)


# What a program says


async def test_a_program_may_say_it_in_a_thread_and_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(health, "AWAY", 0.01)
    registry = MemoryRegistry()
    service, _ = greeter(registry)
    service.set_health(False, "warming\nup \x1b[2J")
    assert service.health_problems == {"": "warming up \\x1b[2J"}
    async with service, Client(registry=registry) as client:
        assert await client.nodes("greeter") == ()
        assert await status(service.address) == NOT_SERVING
        thread = threading.Thread(target=service.set_health, args=(True,))
        thread.start()
        await sees(client, service.node)
        thread.join()
        assert await status(service.address) == SERVING
    assert said()[0] == "greeter is NOT_SERVING and stays out of the registry: warming up \\x1b[2J"


async def test_a_health_that_flaps_stays_away_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(health, "AWAY", 0.1)
    monkeypatch.setattr(health, "LONGEST_AWAY", 0.4)
    registry = Away()
    service, _ = greeter(registry)
    there: list[bool] = []
    async with (
        service,
        Client(registry=registry) as client,
        contextlib.aclosing(client.watch_nodes("greeter")) as sets,  # type: ignore[type-var]
    ):
        async for found in sets:
            there.append(bool(found))
            if there.count(False) >= 5 and there[-1]:
                break
            for _ in range(1000):
                service.set_health(False, "flapping")
                service.set_health(True)
    away = [float(line.split()[-2]) for line in said() if "SERVING again" in line]
    # As the service measures it; a busy machine may see more of them, and later.
    for lasted, least in zip(away, (0.1, 0.2, 0.4, 0.4, 0.4), strict=False):
        assert lasted >= least
    assert len(away) >= 5
    assert registry.asked["register"] <= len(away) + 1
    assert registry.asked["deregister"] <= len(away) + 1


# Checks


async def test_a_service_whose_check_fails_at_the_start_waits_outside(said: Callable[[], list[str]]) -> None:
    registry = MemoryRegistry()
    service, _ = greeter(registry)
    down = True
    asked: list[object] = []

    @service.health_check(every=0.05)
    async def database(it: Service) -> None:
        asked.append(it)
        if down:
            raise ConnectionRefusedError("nobody listens")

    @service.health_check(every=0.05)
    def disk() -> str:  # plain functions run in threads
        assert threading.current_thread() is not threading.main_thread()
        return "disk is full" if down else ""

    async with service, Client(registry=registry) as client:
        assert asked == [service]
        assert await client.nodes("greeter") == ()
        assert await status(service.address) == NOT_SERVING
        assert set(service.health_problems) == {"database", "disk"}
        down = False
        await sees(client, service.node)
        assert await status(service.address) == SERVING
    line, _ = said()
    assert line.startswith(
        "greeter is NOT_SERVING and stays out of the registry: "
        f"database: ConnectionRefusedError: nobody listens ({__file__}:"
    )
    assert line.endswith("; disk: disk is full")


async def hangs() -> None:
    await asyncio.Event().wait()


async def ends_by_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def blocks() -> None:
    time.sleep(0.4)  # noqa: ASYNC251


async def says_no() -> bool:
    return False


async def says_why() -> str:
    return "the queue is 10,000 messages behind"


async def exits() -> None:
    sys.exit(3)


def answers_with_a_number() -> int:
    return 7


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


async def cannot_be_shown() -> None:
    raise Unspeakable


async def has_much_to_say() -> None:
    raise RuntimeError("x" * 10_000_000)


def hangs_in_a_thread() -> None:
    time.sleep(0.6)


def gives_a_coroutine() -> Any:
    return says_why()


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (hangs, r"no result in \d.*s"),
        (hangs_in_a_thread, r"no result in \d.*s"),
        (blocks, r"took \d+\.\d s, more than 200ms \(the event loop stood still for \d+\.\d s of them\)"),
        (ends_by_itself, "it was cancelled"),
        (says_no, "failed"),
        (says_why, "the queue is 10,000 messages behind"),
        (gives_a_coroutine, "the queue is 10,000 messages behind"),
        (exits, r"SystemExit: 3 \(.*test_own_health\.py:\d+\)"),
        (cannot_be_shown, "failed with a ValueError that cannot be shown"),
        (has_much_to_say, "RuntimeError: x{286}…"),
        (answers_with_a_number, "returned a int: a check returns None or True, or False or why it failed"),
    ],
)
async def test_whatever_a_check_does_its_result_is_clear_and_there_in_time(check: Any, reason: str) -> None:
    service, _ = greeter(loop_lag=0.1)
    service.health_check(every=0.05, timeout=0.2)(check)
    began = time.monotonic()
    async with service:
        assert time.monotonic() - began < 5
        assert re.fullmatch(reason, service.health_problems[check.__name__])
        assert await status(service.address) == NOT_SERVING


async def test_a_check_that_will_not_end_is_run_once_and_does_not_hold_a_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, _ = greeter()
    go, runs = asyncio.Event(), 0

    @service.health_check(every=0.01, timeout=0.05)
    async def stubborn() -> None:
        nonlocal runs
        runs += 1
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    async with service:
        assert "no result" in service.health_problems["stubborn"]
        reasons = [service.health_problems["stubborn"]]
        # It is looked at again, and the time that it has taken grows.
        await eventually(lambda: service.health_problems["stubborn"] not in reasons, "another look")
        assert runs == 1
    assert "health check stubborn ignores that it was cancelled" in caplog.text
    go.set()


async def test_one_failure_is_a_hiccup_and_two_in_a_row_are_not(said: Callable[[], list[str]]) -> None:
    registry = MemoryRegistry()
    service, _ = greeter(registry)
    answers = iter([True, False, True, False, True, False, False])
    gone = asyncio.Event()
    seen = 0

    @service.health_check(every=0.01)
    async def database() -> bool:
        nonlocal seen
        seen += 1
        answer = next(answers, False)
        if seen == 8:
            gone.set()
        return answer

    async with service, Client(registry=registry) as client:
        await gone.wait()
        await sees(client)
    assert said() == ["greeter is NOT_SERVING and leaves the registry: database: failed"]


async def test_a_failure_is_looked_at_again_long_before_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "AGAIN", 0.05)
    service, _ = greeter()
    moments: list[float] = []
    failing = asyncio.Event()

    @service.health_check(every=2.0)
    async def database() -> bool:
        moments.append(time.monotonic())
        if len(moments) == 3:
            failing.set()
        return len(moments) == 1

    async with service:
        await failing.wait()
    first, second, third = moments
    assert second - first > 1.7
    assert third - second < 1.7


async def test_other_reasons_of_a_node_that_is_away_are_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(health, "QUIET", 0.05)
    service, _ = greeter()
    states = {"database": False, "cache": True}
    for name in states:
        service.health_check(every=0.01, failures=1, name=name)(functools.partial(states.get, name))
    async with service:
        states["cache"] = False
        await eventually(lambda: len(said()) == 2, "the second reason is told")
        states["database"] = True
        await eventually(lambda: len(said()) == 3, "the first is no longer one")
        for _ in range(1000):
            service.set_health(False, "so it says")
            service.set_health(True)
    assert said()[:3] == [
        "greeter is NOT_SERVING and stays out of the registry: database: failed",
        "greeter is still NOT_SERVING: database: failed; cache: failed",
        "greeter is still NOT_SERVING: cache: failed",
    ]
    assert len(said()) < 6


async def test_a_service_in_a_test_has_a_health_of_its_own() -> None:
    service, _ = greeter()
    for _ in range(2):
        async with running(service) as services:
            other = await services.start(service)
            assert len(await services.client.nodes("greeter")) == 2
            service.set_health(False)
            await sees(services.client)
            await other.stop()
            assert service.health_problems == {"": "its program says so"}


def test_checks_that_cannot_be_used_are_named() -> None:
    service = Service("greeter")
    for options, words in (
        ({"every": 0}, "every=0"),
        ({"every": "5s"}, "every='5s'"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"failures": 0}, "failures=0"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            service.health_check(**options)(hangs)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="is a function, not 5"):
        service.health_check(5)  # type: ignore[call-overload]

    @service.health_check
    async def database() -> None: ...

    with pytest.raises(ConfigError, match="'database' already"):
        service.health_check(database)


APP = """
import asyncio, time
from pymicro import Service, handler
from greeter.v1 import greeter_pb2 as pb

service = Service("greeter", version="1.0.0")

class Greeter:
    @handler
    def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        # In a thread of its own, as plain handlers are.
        service.set_health(request.name == "well", "a handler says so")
        return pb.HelloReply(message="so be it")

service.add(Greeter(), pb, partial=True)

@service.health_check(every=0.1, timeout=0.5)
def hangs_for_ever():
    if service.health_problems:
        time.sleep(3600)

if __name__ == "__main__":
    service.init()
    service.run()
"""


def test_a_process_that_is_not_well_lives_and_stops_cleanly(processes: Processes, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    server = processes.python(str(app), PYTHONPATH="examples/greeter")
    address = server.wait_for(r"greeter .* on (127\.0\.0\.1:\d+), registered")[1]
    flags = ("--address", address)
    assert processes.pymicro("call", "greeter", "SayHello", '{"name": "ill"}', *flags).wait() == 0
    server.wait_for("greeter is NOT_SERVING and leaves the registry: a handler says so")
    assert processes.pymicro("nodes", "greeter").wait() == 1
    shown = processes.pymicro("health", "greeter", *flags)
    assert shown.wait() == 1
    # Why it is so stands in its own log, and nowhere else.
    assert "NOT_SERVING" in "".join(shown.stdout)
    assert "says so" not in "".join(shown.stdout + shown.stderr)
    assert processes.pymicro("health", "greeter", "-n", "liveness", *flags).wait() == 0
    # Its check sits in a thread for ever.
    server.wait_for("hangs_for_ever: no result in 5")
    assert server.stop() == 0, server.report()
    assert "Traceback" not in server.report()
