"""What a process says of itself: while it starts, serves, drains, and about the nodes that it calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Service, StartError, Unavailable, handler
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ADMIN_PORT, ZONE, admin_port
from pymicro.runtime.admin_port import AdminAddress, admin_address
from pymicro.settings.config import load
from pymicro.telemetry.json_page import Rows, json_page
from tests.processes import Processes
from tests.telemetry.held import least_held
from tests.telemetry.http import Reply, connected, get

HERE = "127.0.0.1:0"


class Greeter:
    def __init__(self, onward: Any = None, fails: bool = False) -> None:
        self.onward = onward
        self.fails = fails
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        if self.fails:
            raise Unavailable("on purpose")
        if request.name == "wait":
            self.waiting.set()
            await self.go.wait()
        if self.onward is not None:
            return await self.onward.SayHello(request)
        return pb.HelloReply(message=request.name)


def greeter(name: str = "greeter", servicer: Greeter | None = None, **settings: Any) -> Service:
    service = Service(name, **settings)
    service.add(servicer or Greeter(), pb, partial=True)
    return service


def number_of(it: Service | Client) -> int:
    assert it.admin_address is not None
    return int(it.admin_address.rpartition(":")[2])


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition, or what it returns, holds."""
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        await asyncio.sleep(0.01)


async def nodes(port: int, service: str) -> dict[str, Any]:
    """What `/nodes` says of a service, its nodes by their ids."""
    page = (await get(port, "/nodes")).json
    (found,) = (target for target in page["targets"] if target["service"] == service)
    found["nodes"] = {node["id"]: node for node in found["nodes"]}
    assert isinstance(found, dict)
    return found


# A service, from start to stop


async def test_it_answers_before_the_service_is_ready_and_until_it_has_stopped() -> None:
    seen: list[tuple[int, ...]] = []
    number = 0

    async def look() -> None:
        seen.append(tuple([(await get(number, path)).status for path in ("/livez", "/startupz", "/readyz")]))

    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    servicer = Greeter()
    service = greeter(
        servicer=servicer,
        registry=MemoryRegistry(),
        on_start=look,
        on_stop=look,
        admin_address=f"127.0.0.1:{number}",
    )
    async with service, Client(registry=service.client.registry) as client:
        assert number_of(service) == number
        await look()
        call = rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="wait"))
        await servicer.waiting.wait()
        stopping = asyncio.create_task(service.__aexit__(None, None, None))
        await until(lambda: _is(get(number, "/readyz"), 503))
        await look()
        servicer.go.set()
        await call
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await get(number, "/livez")
        await service.__aenter__()  # so that it can be left
    starting, ready, stopping_ = (200, 503, 503), (200, 200, 200), (200, 200, 503)
    assert seen == [starting, ready, stopping_, stopping_, starting, stopping_]


async def _is(reply: Any, status: int) -> bool:
    found: Reply = await reply
    return found.status == status


async def test_a_service_that_is_not_well_is_alive_and_not_ready() -> None:
    async with greeter(registry=MemoryRegistry()) as service:
        number = number_of(service)
        await until(lambda: _is(get(number, "/readyz"), 200))
        service.set_health(False, "database is down")
        await until(lambda: _is(get(number, "/readyz"), 503))
        assert (await get(number, "/livez")).status == (await get(number, "/startupz")).status == 200
        service.set_health(True)
        await until(lambda: _is(get(number, "/readyz"), 200))


async def test_readiness_waits_for_the_first_nodes_of_named_services() -> None:
    class Slow(MemoryRegistry):
        known = asyncio.Event()

        async def watch(self, service: str) -> AsyncIterator[Any]:  # type: ignore[override]
            if service == "users":
                await self.known.wait()
            async for found in super().watch(service):
                yield found

    registry = Slow()
    async with greeter(registry=registry, ready_after="orders,users") as service:
        number = number_of(service)
        # `orders` has no nodes, which is an answer too.
        await until(lambda: _says(number, "waiting for the first nodes of users\n"))
        registry.known.set()
        await until(lambda: _is(get(number, "/readyz"), 200))


async def _says(number: int, text: str) -> bool:
    return (await get(number, "/readyz")).text == text


async def test_a_process_keeps_answering_probes_while_it_drains(processes: Processes) -> None:
    service = await asyncio.to_thread(
        processes.pymicro, "run", "examples/greeter/server.py", "--drain-delay=1s", "--log-level=debug"
    )
    found = await asyncio.to_thread(service.wait_for, r"admin port (\d+)")
    number = int(found[1])
    assert (await get(number, "/readyz")).status == 200
    async with connected(number) as idle:
        service.signal(signal.SIGTERM)
        await until(lambda: _is(get(number, "/readyz"), 503))
        assert (await get(number, "/livez")).status == 200
        await idle.ended()
    assert await asyncio.to_thread(service.wait) == 0


# Where it listens


@pytest.mark.parametrize(
    ("registry", "settings", "pod", "expected"),
    [
        ("local", {}, False, AdminAddress("127.0.0.1", 0, False)),
        ("memory", {}, False, AdminAddress("127.0.0.1", 0, False)),
        ("memory", {}, True, AdminAddress("127.0.0.1", 0, False)),
        ("mdns", {}, False, AdminAddress("127.0.0.1", 0, False)),
        ("mdns", {"registry_address": "127.0.0.1:5354"}, False, AdminAddress("127.0.0.1", 0, False)),
        ("mdns", {"registry_address": "eth0"}, False, None),
        ("mdns", {"registry_address": "192.168.1.7"}, False, None),
        ("etcd", {}, False, None),
        ("kubernetes", {}, False, None),
        ("kubernetes", {}, True, AdminAddress("0.0.0.0", 9464, False)),
        ("local", {}, True, AdminAddress("0.0.0.0", 9464, False)),
        ("local", {"admin_address": "off"}, True, None),
        ("etcd", {"admin_address": ":9000"}, False, AdminAddress("", 9000, True)),
        ("etcd", {"admin_address": "[::1]:9000"}, False, AdminAddress("::1", 9000, True)),
    ],
)
def test_the_place_decides_where_it_listens_unless_somebody_sets_it(
    registry: str,
    settings: dict[str, str],
    pod: bool,
    expected: AdminAddress | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    config = load(settings, (), {})
    assert admin_address(config, registry, service=True) == expected
    given = expected if expected is not None and expected.given else None
    assert admin_address(config, registry, service=False) == given


async def test_an_address_that_cannot_be_read_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"admin_address '9464': '9464' has no port"):
        async with greeter(registry=MemoryRegistry(), admin_address="9464"):
            pass


async def test_a_port_that_was_set_and_is_taken_ends_the_start() -> None:
    registry = MemoryRegistry()
    async with greeter(registry=registry, admin_address=HERE) as service:
        taken = f"127.0.0.1:{number_of(service)}"
        with pytest.raises(StartError, match=f"admin_address {taken} is taken"):
            async with greeter("other", registry=registry, admin_address=taken):
                pass
        with pytest.raises(StartError, match=f"admin_address {taken} is taken"):
            async with Client(registry=registry, admin_address=taken):
                pass


async def test_the_second_service_of_a_pod_takes_another_port_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr("pymicro.runtime.admin_port.POD_PORT", number)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        registry = MemoryRegistry()
        registry.name = "elsewhere"
        async with greeter(registry=registry) as service:
            found = number_of(service)
            assert found != number
            assert (await get(found, "/livez")).status == 200
    assert f"0.0.0.0:{number} is taken" in caplog.text
    assert f"It listens on port {found} instead" in caplog.text


async def test_a_client_has_a_port_if_it_is_set_and_goes_without_one_that_its_process_has_already(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = MemoryRegistry()
    async with Client(environ={}, registry=registry) as client:
        assert client.admin_address is None
    async with Client(environ={"MICRO_ADMIN_ADDRESS": HERE}, registry=registry) as client:
        number = number_of(client)
        assert (await get(number, "/readyz")).text == "ok\n"
        assert (await get(number, "/nodes")).json["service"] is None
        taken = {"MICRO_ADMIN_ADDRESS": f"127.0.0.1:{number}"}
        async with Client(environ=taken, registry=registry) as other:
            assert other.admin_address is None
    assert client.admin_address is None
    assert "this client goes on without" in caplog.text


async def test_the_record_names_the_port_only_to_those_who_can_reach_it() -> None:
    registry = MemoryRegistry()
    for settings, there in (
        ({"admin_address": HERE}, True),
        ({"admin_address": "0.0.0.0:0"}, True),
        ({"admin_address": HERE, "server_advertise": "192.0.2.7"}, False),
        ({"admin_address": "0.0.0.0:0", "server_advertise": "192.0.2.7"}, True),
        ({"admin_address": "off"}, False),
    ):
        async with greeter(registry=registry, **settings) as service:  # type: ignore[arg-type]
            assert (admin_port(service.node.metadata) is not None) == there
    async with greeter(registry=registry, metadata={ADMIN_PORT: "7"}) as service:
        assert admin_port(service.node.metadata) == 7


@pytest.mark.parametrize("text", ["", "0", "-1", "65536", "1e3", "22 ", "٣", "9" * 5000, "host:80"])
def test_a_port_in_a_record_that_cannot_be_one_counts_as_none(text: str) -> None:
    assert admin_port({ADMIN_PORT: text}) is None


# Which nodes a client sees, and why it does not call one


async def test_nodes_tells_of_each_node_its_state_and_why_it_is_not_called() -> None:
    registry = MemoryRegistry()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"127.0.0.1:{gone.getsockname()[1]}"
    async with (
        greeter("back", registry=registry, server_id="good", zone="a", admin_address="off"),
        greeter("back", Greeter(fails=True), registry=registry, server_id="bad", zone="a"),
        greeter("back", registry=registry, server_id="far", zone="b"),
        Client(
            registry=registry, zone="a", admin_address=HERE, client_retries=0, environ={}, subset_size=0
        ) as client,
    ):
        await registry.register(Node("dead", dead, "back", metadata={ZONE: "a"}))
        await registry.register(Node("http", dead, "back", metadata={"protocol": "http"}))
        stub = rpc.GreeterStub(client.channel("back"))
        number = number_of(client)

        async def ejected() -> bool:
            with contextlib.suppress(Unavailable):
                await stub.SayHello(pb.HelloRequest(name="x"))
            found = (await nodes(number, "back"))["nodes"]
            return found["bad"]["state"] == "ejected" and found["dead"]["state"] == "failed"

        await until(ejected)
        found = await nodes(number, "back")
        assert (found["known"], found["chosen_from"], found["panic"]) == (5, 4, False)
        assert found["age_seconds"] >= 0
        assert found["error"] is None
        good, bad, far = (found["nodes"][name] for name in ("good", "bad", "far"))
        assert (good["state"], good["called"], good["why_not"], good["zone"]) == ("ready", True, None, "a")
        assert 0 < good["latency_seconds"] < 5
        assert not bad["called"]
        assert "ejected until a probe in" in bad["why_not"]
        assert "5 calls in a row failed, the last with status 14" in bad["why_not"]
        assert far["state"] in ("other_zone", "ready")
        assert far["called"] == (far["why_not"] is None)
        assert found["nodes"]["dead"]["why_not"].startswith("it cannot be reached, tried last")
        assert found["nodes"]["http"]["why_not"] == "it speaks http"
        metrics = (await get(number, "/metrics")).text
        counted = {
            state: int(float(count))
            for state, count in re.findall(
                r'^pymicro_client_nodes\{grpc_target="back",state="(\w+)"\} (\S+)$', metrics, re.MULTILINE
            )
        }
        called = sum(node["called"] for node in found["nodes"].values())
        assert counted["known"] == 5
        assert counted["ready"] == 3
        assert counted["usable"] == called
        assert counted["ejected"] == 1
        assert counted["other_zone"] == (far["state"] == "other_zone")
        assert counted["warming"] == 0
        assert 'pymicro_client_panic{grpc_target="back"} 0.0\n' in metrics


async def test_nodes_beyond_the_subset_and_of_another_version_are_unused() -> None:
    registry = MemoryRegistry()
    async with (
        greeter("back", registry=registry, version="1"),
        greeter("back", registry=registry, version="2"),
        greeter("back", registry=registry, version="2"),
        Client(registry=registry, subset_size=1, admin_address=HERE, environ={}) as client,
    ):
        channel = client.channel("back", version="2", metadata={"protocol": "grpc"})
        await rpc.GreeterStub(channel).SayHello(pb.HelloRequest(name="x"))
        found = await nodes(number_of(client), "back")
        assert found["filter"] == "version '2' and metadata protocol"
        states = sorted((node["version"], node["state"], node["why_not"]) for node in found["nodes"].values())
        assert states[0] == (
            "1",
            "unused",
            "the channel wants another: version '2' and metadata protocol",
        )
        assert ("2", "ready", None) in states
        assert ("2", "unused", "it is not in this client's subset of the nodes") in states


async def test_a_registry_that_fails_is_told_of_with_its_error_and_since_when() -> None:
    class Failing(MemoryRegistry):
        fails = asyncio.Event()

        async def watch(self, service: str) -> AsyncIterator[Any]:  # type: ignore[override]
            async for found in super().watch(service):
                yield found
                await self.fails.wait()
                raise RegistryError("the registry is away")

    registry = Failing()
    async with (
        greeter("back", registry=registry),
        Client(registry=registry, admin_address=HERE, environ={}) as client,
    ):
        await rpc.GreeterStub(client.channel("back")).SayHello(pb.HelloRequest(name="x"))
        number = number_of(client)
        (watched,) = (await get(number, "/nodes")).json["registry"]["watched"]
        assert (watched["error"], watched["failing_seconds"], watched["nodes"]) == (None, None, 1)
        registry.fails.set()

        async def told() -> bool:
            return (await nodes(number, "back"))["error"] == "the registry is away"

        await until(told)
        (watched,) = (await get(number, "/nodes")).json["registry"]["watched"]
        assert watched["failing_seconds"] >= 0
        assert watched["nodes"] == 1


async def test_a_registration_that_fails_is_told_of() -> None:
    class Refusing(MemoryRegistry):
        async def register(self, node: Node) -> None:
            raise RegistryError("not today")

    async with greeter(registry=Refusing(), admin_address=HERE) as service:
        found = (await get(number_of(service), "/nodes")).json["service"]
        assert (found["name"], found["registered"], found["registration_error"]) == (
            "greeter",
            False,
            "not today",
        )


async def test_no_page_shows_a_password_or_a_nodes_metadata() -> None:
    registry = MemoryRegistry()
    secret = "hunter2-of-the-test"
    async with (
        greeter("back", registry=registry, metadata={"token": secret}),
        greeter(
            registry=registry,
            registry_user="admin",
            registry_password=secret,
            metadata={"password": secret},
            admin_address=HERE,
        ) as service,
    ):
        channel = service.channel("back", metadata={"token": secret})
        await rpc.GreeterStub(channel).SayHello(pb.HelloRequest(name="x"), metadata=(("auth", secret),))
        for path in ("/", "/livez", "/readyz", "/nodes", "/stats", "/metrics", "/no"):
            reply = await get(number_of(service), path)
            assert secret not in reply.text
        assert "metadata token" in (await get(number_of(service), "/nodes")).text


# What was counted


async def test_stats_count_the_calls_of_both_ends() -> None:
    registry = MemoryRegistry()
    async with greeter("back", registry=registry, admin_address=HERE) as back:
        front = greeter(registry=registry, admin_address=HERE)
        async with front, Client(registry=registry) as client:
            stub = rpc.GreeterStub(front.channel("back"))
            for _ in range(3):
                await stub.SayHello(pb.HelloRequest(name="x"))
            with contextlib.suppress(Unavailable):
                await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="x"))
            calls = (await get(number_of(front), "/stats")).json
            serves = (await get(number_of(back), "/stats")).json
    path = "/greeter.v1.Greeter/SayHello"
    assert (calls["format"], calls["service"]) == (1, "greeter")
    called = calls["client"]["back"]["methods"][path]
    assert (called["statuses"], called["in_flight"], called["attempts"]) == ({"0": 3}, 0, 3)
    assert sum(called["seconds"]["counts"]) == 3
    assert len(called["seconds"]["counts"]) == len(called["seconds"]["bounds"]) + 1
    assert called["seconds"]["total"] > 0
    assert calls["server"]["methods"][path]["statuses"] == {"0": 1}
    assert serves["server"]["methods"][path]["statuses"] == {"0": 3}


async def test_without_metrics_there_are_no_stats_and_the_page_says_so() -> None:
    async with greeter(registry=MemoryRegistry(), metrics="off", admin_address=HERE) as service:
        for path in ("/stats", "/metrics"):
            reply = await get(number_of(service), path)
            assert reply.status == 404
            assert reply.text == "nothing is counted here: the setting `metrics` is off\n"
        assert (await get(number_of(service), "/nodes")).status == 200


async def test_metrics_are_what_prometheus_scrapes_in_the_form_that_it_asks_for() -> None:
    registry = MemoryRegistry()
    async with greeter("back", registry=registry, admin_address=HERE) as back:
        await rpc.GreeterStub(back.channel("back")).SayHello(pb.HelloRequest(name="x"))
        number = number_of(back)
        plain = await get(number, "/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        method = 'grpc_method="greeter.v1.Greeter/SayHello"'
        assert f"grpc_server_call_started_total{{{method}}} 1.0\n" in plain.text
        assert f'grpc_client_attempt_started_total{{{method},grpc_target="back"}} 1.0\n' in plain.text
        assert 'pymicro_registered{registry="memory"} 1.0\n' in plain.text
        assert 'registry="memory"' in plain.text
        assert 'pymicro_registry_age_seconds{grpc_target="back",registry="memory"}' in plain.text
        metrics = await get(number, "/metrics", Accept="application/openmetrics-text;version=1.0.0")
        assert metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert metrics.text.endswith("# EOF\n")


async def test_without_the_extra_all_but_metrics_is_there_and_the_log_says_once_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pymicro.admin")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with greeter(registry=MemoryRegistry(), admin_address=HERE) as service:
        for _ in range(2):
            reply = await get(number_of(service), "/metrics")
            assert reply.status == 404
            assert "extra `metrics`: pip install 'pymicro-grpc[metrics]'" in reply.text
        for path in ("/livez", "/readyz", "/nodes", "/stats"):
            assert (await get(number_of(service), path)).status == 200
    assert caplog.text.count("the extra `metrics`") == 1


# What it costs


async def test_pages_of_two_thousand_nodes_hold_up_nobody() -> None:
    registry = MemoryRegistry()
    for number in range(2000):
        host = f"127.9.{number // 250}.{number % 250 + 1}"
        await registry.register(Node(f"n{number}", f"{host}:9", "back", "1", {ZONE: "a"}))
    async with Client(registry=registry, admin_address=HERE, environ={}) as client:
        with pytest.raises(Unavailable):  # nobody is there
            await rpc.GreeterStub(client.channel("back")).SayHello(pb.HelloRequest(name="x"))
        recorder = client.recorder
        assert recorder is not None
        for number in range(500):
            for method in range(2):
                recorder.target(f"service-{number}").method(f"/a.B/{method}").once[0].add(0.001)
        pages = {}
        for path in ("/nodes", "/stats", "/metrics"):

            async def read(path: str = path) -> None:
                pages[path] = await get(number_of(client), path)

            assert await least_held(read, 0.005) <= 0.005, path
        (target,) = pages["/nodes"].json["targets"]
        assert len(target["nodes"]) == 2000
        assert len(pages["/stats"].json["client"]) == 501
        assert pages["/metrics"].text.count("\ngrpc_client_call_duration_seconds_bucket") == 1001 * 16


async def test_what_peers_wrote_is_printable_in_a_page() -> None:
    odd = "\x1b[31m\u202e\x9b\ud800"
    _, pieces = json_page(lambda: {"a": Rows([{odd: odd}]), odd: Rows([(odd, 1)], keyed=True)})("")
    text = b"".join([piece async for piece in pieces]).decode()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"a": [{odd: odd}], odd: {odd: 1}}
