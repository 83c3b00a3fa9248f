"""Three services with real parts around them, through good times and bad: played once, read by all tests.

`driver` calls `front`, which calls `orders`, which calls `stock`. Each node is a process, found through a
real etcd, scraped by a real Prometheus, and sends its spans to a real collector. What is there to be
read afterwards is a `Recording`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from opentelemetry import propagate, trace

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc
from pymicro import Client, RpcError
from tests.etcd_server import Etcd
from tests.processes import ROOT, Process, Processes, clean_environment
from tests.telemetry.real.collector import Collector, Span
from tests.telemetry.real.loopback import network
from tests.telemetry.real.prometheus import Place, Prometheus, Sample
from tests.telemetry.real.tracer import make_provider

__all__ = ["ALERTS", "SHAPES", "UNKNOWN_PATHS", "Recording", "places", "played"]

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
METHOD = "greeter.v1.Greeter/"
SHAPES = ("SayHello", "CountDown", "GreetAll", "Chat")
UNKNOWN_PATHS = 10_000
# Calls a second of the driver, beside those that a step makes.
RATE = 20.0
ONWARD = "onward onward hello"
# So many calls are a while: some three seconds, in which one sees how things are.
SHORT = 60

# How many nodes of each service there are, in the end.
NODES = {"front": 2, "orders": 6, "stock": 2}
# Seconds in which a record leaves etcd whose process was killed.
TTL = "10"


@cache
def places() -> dict[str, Place]:
    """By the names of nodes: where Prometheus looks for each from its start."""
    found = {}
    for at, (job, count) in enumerate(NODES.items(), 10):
        for number in range(1, count + 1):
            name = f"{job}-{number}"
            found[name] = Place(f"{network()}.{at}.{number}:9464", job, name)
    for number, name in enumerate(("driver", "churn"), 1):
        found[name] = Place(f"{network()}.20.{number}:9464", name, name)
    return found


@dataclass
class Recording:
    """What was played.

    Attributes:
        begin: The moment of `time.time()` when all was there.
        marks: Moments by name, each after Prometheus has all that is due.
        called: By method and status how many calls the driver's client had made, at the mark `well`.
        retried: How many of them were tried again, once each.
        traces: The id of one trace by what was called within it.
        series: How many series Prometheus had of `churn`, and of `stock`, before it came.
        spans: All that the collector wrote.
    """

    prometheus: Prometheus
    begin: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)
    called: Counter[tuple[str, str]] = field(default_factory=Counter)
    retried: int = 0
    traces: dict[str, str] = field(default_factory=dict)
    series: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)

    @property
    def end(self) -> float:
        """The last mark."""
        return max(self.marks.values())

    def mark(self, name: str) -> None:
        """Give the present moment a name."""
        self.marks[name] = time.time()


class Nodes:
    """The services' processes."""

    def __init__(self, processes: Processes, folder: Path, etcd: Etcd, collector: Collector) -> None:
        self._processes = processes
        self._folder = folder
        self._settings = {
            "MICRO_REGISTRY": "etcd",
            "MICRO_REGISTRY_ADDRESS": etcd.address,
            "MICRO_REGISTER_TTL": TTL,
            "MICRO_REGISTER_INTERVAL": "3",
            "MICRO_DRAIN_DELAY": "500ms",
            "MICRO_MAX_CONCURRENT_CALLS": "20",
            "PYTHONPATH": str(ROOT / "examples" / "greeter"),
        }
        self._endpoint = collector.endpoint
        self.running: dict[str, Process] = {}
        self.address: dict[str, str] = {}

    async def start(self, *names: str) -> None:
        """Start these and wait until they are registered."""
        onward = {"front": "orders", "orders": "stock"}
        # The default soon calls nobody who fails, so that nobody need be ejected.
        more = {"front": {"MICRO_BALANCER": "round_robin"}}
        for name in names:
            place = places()[name]
            host = place.address.partition(":")[0]
            argv = [str(self._folder), name, self._endpoint]
            argv += [onward[place.job]] if place.job in onward else []
            self.running[name] = self._processes.python(
                "-m",
                "tests.telemetry.real.node",
                *argv,
                **self._settings,
                **more.get(place.job, {}),
                MICRO_ADMIN_ADDRESS=place.address,
                MICRO_SERVER_ADDRESS=f"{host}:0",
            )
        for name in names:
            line = await asyncio.to_thread(self.running[name].wait_for, r" on (\S+), registered")
            self.address[name] = line[1]

    async def stop(self, *names: str) -> None:
        """SIGTERM; they end when they were scraped for the last time."""
        codes = await asyncio.gather(*(asyncio.to_thread(self.running.pop(name).stop) for name in names))
        assert codes == [0] * len(names), codes

    async def kill(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            await asyncio.to_thread(self.running.pop(name).kill)

    def behave(self, *names: str, bad: bool) -> None:
        """Whether each call of these nodes fails, from now on."""
        for name in names:
            path = self._folder / f"{name}.bad"
            if bad:
                path.touch()
            else:
                path.unlink()


class Driver:
    """Calls `front`, counts what it does, and makes calls beside its steps, at a steady rate."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.front = greeter_pb2_grpc.GreeterStub(client.channel("front", idempotent=["SayHello"]))
        self.called: Counter[tuple[str, str]] = Counter()
        self._going = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._calls: set[asyncio.Task[str]] = set()

    async def say(self, what: str) -> str:
        """One call of SayHello; returns how it ended."""
        return await self.count("SayHello", self.front.SayHello(pb.HelloRequest(name=what), timeout=20))

    async def count(self, method: str, call: Awaitable[Any]) -> str:
        """Count this call, and return how it ended."""
        try:
            await call
            status = "OK"
        except RpcError as exc:
            status = exc.code().name
        self.called[METHOD + method, status] += 1
        total = self.called.total()
        for waiting in [one for one in self._waiting if one[0] <= total]:
            self._waiting.remove(waiting)
            waiting[1].set_result(None)
        return status

    async def more(self, count: int) -> None:
        """Wait until so many more calls have ended."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((self.called.total() + count, waiter))
        async with asyncio.timeout(60):
            await waiter

    async def shape(self, shape: str) -> None:
        """One call of this shape."""
        greet = self.front
        if shape == "SayHello":
            assert await self.say("hello") == "OK"
        elif shape == "CountDown":
            await self.count(shape, _read(greet.CountDown(pb.CountDownRequest(**{"from": 3}))))
        elif shape == "GreetAll":
            names = iter([pb.HelloRequest(name="Ada"), pb.HelloRequest(name="Grace")])
            await self.count(shape, greet.GreetAll(names))
        else:
            await self.count(shape, _read(greet.Chat(iter([pb.ChatMessage(text="hello")]))))

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """While the context is open, make calls that go through all services, unless paused."""
        going = asyncio.create_task(self._go_on(), name="load")
        try:
            yield
        finally:
            going.cancel()
            await asyncio.wait([going, *self._calls])

    async def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._going.wait()
            task = asyncio.create_task(self.say(ONWARD), name="call")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            # A pace, and not a wait for anything.
            due = loop.time() + 1 / RATE
            await asyncio.sleep(due - loop.time())

    def go_on(self) -> None:
        """Make calls from now on."""
        self._going.set()

    async def pause(self) -> None:
        """Make none any more, and wait until those end that are on their way."""
        self._going.clear()
        if self._calls:
            await asyncio.wait(self._calls)


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


def above(limit: float) -> Callable[[list[Sample]], bool]:
    """Whether there is an answer, and all values are above a limit."""
    return lambda found: bool(found) and all(sample.value > limit for sample in found)


def equal(number: float) -> Callable[[list[Sample]], bool]:
    """Whether there is an answer, and all values are a number."""
    return lambda found: bool(found) and all(sample.value == number for sample in found)


class Scene:
    """The steps, one after the other."""

    def __init__(self, recording: Recording, nodes: Nodes, driver: Driver, etcd: Etcd) -> None:
        self._recording = recording
        self._until = recording.prometheus.until
        self._nodes = nodes
        self._driver = driver
        self._etcd = etcd

    async def play(self, tracer: trace.Tracer) -> None:
        """All of them."""
        recording, nodes, driver = self._recording, self._nodes, self._driver
        await nodes.start("front-1", "front-2", "orders-1", "orders-2", "orders-3", "stock-1", "stock-2")
        recording.begin = time.time()
        async with driver.load():
            driver.go_on()
            await self._good_times(tracer)
            await driver.more(SHORT)
            await self._rollout()
            await driver.more(SHORT)
            await driver.pause()
            await self._all_scraped()
            recording.called = driver.called.copy()
            await self._mark("well")
            # A scrape that had begun at the mark must not see what comes after it.
            later = 'min(timestamp(up{job=~"driver|front|orders|stock"}))'
            await self._until(later, above(recording.marks["well"]))
            driver.go_on()
            await self._unwell()
            await asyncio.to_thread(self._etcd.kill)
            await self._mark("etcd killed")
            await driver.more(SHORT)
            await self._one_bad_node()
            await self._all_bad()
            await self._killed_nodes()
            await self._held_loop()
            await self._full_server(tracer)
            await self._until(
                "min by (job) (pymicro_registry_age_seconds{job=~'driver|front|orders'})", above(30)
            )
            await self._mark("registry is old")
            await self._registry_back()
            await driver.more(SHORT)
            await self._mark("load is over")
            await driver.pause()
        await self._unknown_paths(tracer)
        await nodes.stop(*nodes.running)
        await self._mark("end")

    async def _mark(self, name: str) -> None:
        """Give a moment a name in which Prometheus has heard of every process that runs.

        On a busy machine a scrape may come too late, and then all of a process is gone until the next.
        """
        there = [*self._nodes.running, "driver"]
        await self._until(f'count(up{{node=~"{"|".join(there)}"}} == 1)', equal(len(there)))
        self._recording.mark(name)

    async def _good_times(self, tracer: trace.Tracer) -> None:
        """Calls of all shapes, calls that go on to others, calls that fail, calls that are tried again."""
        recording, driver = self._recording, self._driver
        for shape in SHAPES:
            with tracer.start_as_current_span(f"the scene: {shape}") as span:
                recording.traces[shape] = _hex(span)
                await driver.shape(shape)
        whats = {
            "onward": ONWARD,
            "retried": "once",
            "failed": "fail NOT_FOUND",
            "crashed": "onward fail DATA_LOSS",
        }
        for name, what in whats.items():
            with tracer.start_as_current_span(f"the scene: {name}") as span:
                recording.traces[name] = _hex(span)
                await driver.say(what)
        recording.retried = 1
        for _ in range(20):
            await asyncio.gather(*(driver.shape(shape) for shape in SHAPES), driver.say("fail NOT_FOUND"))
        for _ in range(4):  # the budget for retries has a reserve of ten
            assert await driver.say("once") == "OK"
            recording.retried += 1

    async def _rollout(self) -> None:
        """Each node of `orders` is replaced by another, under load."""
        await self._nodes.start("orders-4", "orders-5", "orders-6")
        for name in ("orders-1", "orders-2", "orders-3"):
            await self._nodes.stop(name)
        await self._until(
            'sum by (job) (pymicro_client_nodes{job="front",grpc_target="orders",state="ready"})', equal(6)
        )

    async def _all_scraped(self) -> None:
        """Wait until Prometheus has all calls of the driver, and of all others."""
        total = self._driver.called.total()
        await self._until('sum(grpc_client_call_duration_seconds_count{job="driver"})', equal(total))
        # What a client has seen end may not have ended at its server, and not have been scraped.
        await self._until("sum(pymicro_server_calls_in_flight)", equal(0))
        for client, server in (("driver", "front"), ("front", "orders"), ("orders", "stock")):
            await self._until(
                f'sum(last_over_time(grpc_client_attempt_started_total{{job="{client}"}}[10m]))'
                f' - sum(last_over_time(grpc_server_call_started_total{{job="{server}"}}[10m]))',
                equal(0),
            )

    async def _unwell(self) -> None:
        """A node says that it is not well, and leaves; and comes back."""
        async with self._direct("stock-2") as stub:
            await stub.SayHello(pb.HelloRequest(name="unwell"))
            await self._until('pymicro_registered{node="stock-2"}', equal(0))
            await self._mark("not registered")
            await stub.SayHello(pb.HelloRequest(name="well"))
        await self._until("pymicro_registered", equal(1))

    async def _one_bad_node(self) -> None:
        """One of three fails, and is left out; when it is well again, it comes back."""
        self._nodes.behave("orders-4", bad=True)
        await self._until('sum(pymicro_client_nodes{job="front",state="ejected"})', above(0))
        await self._mark("ejected")
        await self._driver.more(SHORT)
        self._nodes.behave("orders-4", bad=False)
        await self._until('sum(pymicro_client_nodes{job="front",state="ejected"})', equal(0))

    async def _all_bad(self) -> None:
        """All fail: there is nobody to leave out, and no budget to try again."""
        names = ("orders-4", "orders-5", "orders-6")
        self._nodes.behave(*names, bad=True)
        await self._until("sum(grpc_lb_outlier_detection_ejections_unenforced_total)", above(0))
        await self._until("sum(pymicro_client_retry_budget_exhausted_total)", above(0))
        await self._until(
            'sum(rate(grpc_client_call_duration_seconds_count{job="driver",grpc_status="INTERNAL"}[10s]))'
            ' / sum(rate(grpc_client_call_duration_seconds_count{job="driver"}[10s]))',
            above(0.5),
        )
        await self._mark("all fail")
        await self._driver.more(SHORT)
        self._nodes.behave(*names, bad=False)

    async def _killed_nodes(self) -> None:
        """Two of three are killed, and no registry is there to say so."""
        await self._nodes.kill("orders-5", "orders-6")
        await self._until('sum(pymicro_client_panic{job="front"})', above(0))
        await self._mark("panic")
        await self._driver.more(SHORT)

    async def _held_loop(self) -> None:
        """A handler holds the event loop, and calls that wait meanwhile are too late."""
        lag = 'pymicro_event_loop_lag_seconds_bucket{node="stock-1"}'
        held = f"histogram_quantile(0.99, sum by (le) (rate({lag}[5m])))"
        async with self._direct("stock-1") as stub:

            async def hold() -> None:
                holding = stub.SayHello(pb.HelloRequest(name="hold 0.6"))
                # Of streams grpc.aio lets the deadline to the server.
                late = [stub.GreetAll(iter([pb.HelloRequest(name="Ada")]), timeout=0.3) for _ in range(5)]
                await asyncio.gather(holding, *late, return_exceptions=True)

            await self._until(held, above(0.25), meanwhile=hold)
            await self._mark("held")
            await self._until(
                'sum(pymicro_server_calls_refused_total{reason="expired"})', above(0), meanwhile=hold
            )

    async def _full_server(self, tracer: trace.Tracer) -> None:
        """More calls at a time than a server takes."""
        async with self._direct("stock-2") as stub:
            with self._traced(tracer, "full") as metadata:

                async def crowd() -> None:
                    asked = pb.HelloRequest(name="wait 0.3")
                    calls = [stub.SayHello(asked, metadata=metadata) for _ in range(40)]
                    await asyncio.gather(*calls, return_exceptions=True)

                refused = 'sum(pymicro_server_calls_refused_total{reason="full"})'
                await self._until(refused, above(0), meanwhile=crowd)
        await self._mark("full")

    async def _registry_back(self) -> None:
        """etcd is there again: what was killed leaves, and all is well."""
        await asyncio.to_thread(self._etcd.start)
        await self._until(
            "max(pymicro_registry_age_seconds)", lambda found: bool(found) and found[0].value < 15
        )
        await self._until("pymicro_registered", equal(1))
        await self._until("max(pymicro_client_panic)", equal(0))
        await self._until('sum(pymicro_client_nodes{job=~"front",state="known"})', equal(2))
        await self._mark("well again")

    async def _unknown_paths(self, tracer: trace.Tracer) -> None:
        """Calls of ten thousand methods that nobody has."""
        recording = self._recording
        recording.series["stock"] = recording.prometheus.value('count({node="stock-1"})')
        before = recording.prometheus.value('sum(pymicro_server_calls_refused_total{reason="unknown"})')
        async with grpc.aio.insecure_channel(self._nodes.address["stock-1"]) as channel:
            with self._traced(tracer, "unknown") as metadata:
                call = channel.unary_unary("/no.such.v1.Service/Get")(b"", metadata=metadata)
                assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            for begin in range(1, UNKNOWN_PATHS, 100):
                paths = [
                    f"/no.such.v{number}.Service/Get{number}"
                    for number in range(begin, min(begin + 100, UNKNOWN_PATHS))
                ]
                calls = [channel.unary_unary(path)(b"") for path in paths]
                await asyncio.gather(*calls, return_exceptions=True)
        await self._until(
            'sum(pymicro_server_calls_refused_total{reason="unknown"})', equal(before + UNKNOWN_PATHS)
        )
        await self._mark("unknown paths")

    @contextmanager
    def _traced(self, tracer: trace.Tracer, name: str) -> Iterator[tuple[tuple[str, str], ...]]:
        """A span of our own, and the metadata for calls within it that pymicro does not make."""
        with tracer.start_as_current_span(f"the scene: {name}") as span:
            self._recording.traces[name] = _hex(span)
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            yield tuple(carrier.items())

    @asynccontextmanager
    async def _direct(self, name: str) -> AsyncIterator[Any]:
        """A stub of one node, without pymicro."""
        async with grpc.aio.insecure_channel(self._nodes.address[name]) as channel:
            yield greeter_pb2_grpc.GreeterStub(channel)


async def _churn(recording: Recording, processes: Processes) -> None:
    """A thousand nodes come and go."""
    python_path = str(ROOT / "examples" / "greeter")
    place = places()["churn"]
    churn = processes.python(
        "-m", "tests.telemetry.real.churn", place.address, f"{network()}.30", PYTHONPATH=python_path
    )
    changes = 'pymicro_client_node_changes_total{{node="churn",change="{}"}}'
    await asyncio.to_thread(churn.wait_for, "the first were called")
    await recording.prometheus.until(changes.format("add"), equal(50))
    recording.series["churn"] = recording.prometheus.value('count({node="churn"})')
    churn.signal(signal.SIGUSR1)
    await asyncio.to_thread(churn.wait_for, "all came and went")
    await recording.prometheus.until(changes.format("add"), equal(1000))
    await recording.prometheus.until(changes.format("remove"), equal(950))
    recording.mark("churned")
    await asyncio.to_thread(churn.kill)


async def _play(
    recording: Recording, nodes: Nodes, etcd: Etcd, processes: Processes, tracer: trace.Tracer
) -> None:
    settings: Mapping[str, Any] = {
        "registry": "etcd",
        "registry_address": [etcd.address],
        "admin_address": places()["driver"].address,
    }
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(**settings))
        driver = Driver(client)
        # Beside the rest: it waits most of the time.
        churning = asyncio.create_task(_churn(recording, processes), name="churn")
        await Scene(recording, nodes, driver, etcd).play(tracer)
        await churning


def _hex(span: trace.Span) -> str:
    return trace.format_trace_id(span.get_span_context().trace_id)


@contextmanager
def played(folder: Path) -> Iterator[Recording]:
    """The scene, played; Prometheus goes on while the context is open.

    Args:
        folder: For what its parts write.
    """
    with ExitStack() as stack:
        prometheus = stack.enter_context(Prometheus(folder, list(places().values()), ALERTS))
        collector = stack.enter_context(Collector(folder))
        etcd = stack.enter_context(Etcd(folder))
        processes = Processes(clean_environment())
        stack.callback(processes.end)
        nodes = Nodes(processes, folder, etcd, collector)
        recording = Recording(prometheus)
        provider = make_provider("driver", "driver", collector.endpoint)
        # A process can set its provider once, and other tests have another one.
        before, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, provider
        try:
            asyncio.run(_play(recording, nodes, etcd, processes, provider.get_tracer("scene")))
        finally:
            trace._TRACER_PROVIDER = before
            provider.shutdown()
        recording.spans = collector.stop()
        yield recording
