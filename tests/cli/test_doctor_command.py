"""`pymicro doctor`: each way in which a service is not found or not reached has its name."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pty
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from pymicro import Client, MemoryRegistry, Node, RegistryError, Service
from pymicro.base.findings import Finding
from pymicro.cli import doctor_checks, doctor_nodes
from pymicro.cli.doctor_checks import check, check_settings
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.serving.server import Server
from pymicro.settings.config import Config, load
from tests.cli_support import PATIENCE, Commands, Result
from tests.processes import ROOT, Processes


@contextlib.asynccontextmanager
async def greeter(address: str = "127.0.0.1:0", *, serving: bool = True) -> AsyncIterator[int]:
    """A server with health; its port."""
    server = Server(Config())
    _, port = await server.bind(address)
    await server.start()
    server.set_serving(serving)
    try:
        yield port
    finally:
        await server.stop(None)


async def doctor(pymicro: Commands, *addresses: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code, and what was found of a greeter at these addresses."""
    listed = ",".join(f"greeter={address}" for address in addresses)
    result = await pymicro(
        "doctor", "greeter", "--registry=static", f"--registry-address={listed}", "-o", "json"
    )
    assert result.err == ""
    found = json.loads(result.out)
    assert found["service"] == "greeter"
    assert found["ok"] is (result.code == 0)
    return result.code, [finding for finding in found["findings"] if finding["check"].startswith("node")]


async def the_only(pymicro: Commands, address: str) -> dict[str, str]:
    code, (finding,) = await doctor(pymicro, address)
    assert finding["check"] == f"node {address}"
    assert code == (1 if finding["level"] == "problem" else 0)
    return finding


def dead_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address whose packets nobody answers: a listener with a full backlog."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            assert waiting.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


# Nodes


async def test_all_is_well_with_a_greeter_that_runs(pymicro: Commands, processes: Processes) -> None:
    server = processes.pymicro("run", "examples/greeter/server.py", cwd=ROOT)
    address = server.wait_for(r"greeter.*?(127\.0\.0\.1:\d+)")[1]
    result = await pymicro("doctor", "greeter")
    assert (result.code, result.err) == (0, "")
    *lines, verdict = result.out.splitlines()
    assert verdict == "all is well"
    assert [line.split()[0] for line in lines] == ["ok"] * 5
    assert lines[2].endswith("1 node of greeter")
    assert re.fullmatch(rf"ok       node {address} +SERVING, \d+\.\d ms, version 1\.0\.0", lines[3])
    assert re.fullmatch(rf"ok       inside {address} +registered", lines[4])
    # In columns: mark, what was looked at, what was found.
    assert all(line[7:9] == line[33:35] == "  " and line[9] != " " != line[35] for line in lines)


async def test_a_dead_process_is_refused(pymicro: Commands) -> None:
    finding = await the_only(pymicro, f"127.0.0.1:{dead_port()}")
    assert finding["level"] == "problem"
    assert finding["text"] == "connection refused: nothing listens there"
    assert finding["fix"].startswith("its process has ended, listens at another port")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer a full backlog")
async def test_what_drops_packets_is_told_from_what_refuses(pymicro: Commands, black_hole: str) -> None:
    finding = await the_only(pymicro, black_hole)
    assert (finding["level"], finding["text"]) == ("problem", "no answer in 3 s")
    assert "NetworkPolicy" in finding["fix"]


async def test_another_protocol_is_no_grpc(pymicro: Commands) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
        finding = await the_only(pymicro, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert finding["level"] == "problem"
    assert finding["text"].startswith("takes connections and no gRPC calls: ")
    assert finding["fix"].startswith("something else listens there")


async def test_a_service_that_starts_or_stops_is_not_serving(pymicro: Commands) -> None:
    async with greeter(serving=False) as port:
        finding = await the_only(pymicro, f"127.0.0.1:{port}")
    assert finding["level"] == "problem"
    assert finding["text"].startswith("is NOT_SERVING: it starts or stops, or says of itself")


@contextlib.asynccontextmanager
async def foreign_server(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    server = grpc.aio.server(handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_server_without_health_is_reachable_and_no_problem(pymicro: Commands) -> None:
    async with foreign_server() as address:
        finding = await the_only(pymicro, address)
    assert finding["level"] == "note"
    assert "offers no health" in finding["text"]


def health_that(answers: Any) -> grpc.GenericRpcHandler:
    handler = grpc.unary_unary_rpc_method_handler(answers)
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})


async def test_a_process_that_hangs_takes_connections_and_answers_nothing(pymicro: Commands) -> None:
    async def hang(request: Any, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with foreign_server(health_that(hang)) as address:
        finding = await the_only(pymicro, address)
    assert finding["level"] == "problem"
    assert finding["text"] == "takes connections and answers nothing in 3 s"
    assert "event loop is blocked" in finding["fix"]


async def test_health_that_fails_is_shown_with_its_status(pymicro: Commands) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no \x1b[2J token")

    async with foreign_server(health_that(refuse)) as address:
        finding = await the_only(pymicro, address)
    assert finding["text"] == "answers health with PERMISSION_DENIED: no \x1b[2J token"


async def test_one_bad_node_is_found_among_good_ones(pymicro: Commands) -> None:
    dead = f"127.0.0.1:{dead_port()}"
    async with greeter() as first, greeter() as second:
        code, findings = await doctor(pymicro, f"127.0.0.1:{first}", dead, f"127.0.0.1:{second}")
    assert code == 1
    assert {finding["check"]: finding["level"] for finding in findings} == {
        f"node 127.0.0.1:{first}": "ok",
        f"node {dead}": "problem",
        f"node 127.0.0.1:{second}": "ok",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine on Linux only")
async def test_of_many_nodes_the_first_twenty_are_called_and_it_says_so(pymicro: Commands) -> None:
    async with greeter("0.0.0.0:0") as port:
        code, findings = await doctor(pymicro, *(f"127.0.0.{last}:{port}" for last in range(1, 24)))
    assert code == 0
    *called, rest = findings
    assert len(called) == 20
    assert {finding["level"] for finding in called} == {"ok"}
    assert (rest["level"], rest["text"]) == ("note", "3 more nodes were not called")


# Finding


async def test_a_name_that_nobody_registered_gets_the_nearest_one(
    pymicro: Commands, processes: Processes
) -> None:
    processes.pymicro("run", "examples/greeter/server.py", cwd=ROOT).wait_for("registered")
    result = await pymicro("doctor", "greter")
    assert result.code == 1
    *_, problem, fix, verdict = result.out.splitlines()
    assert problem.startswith("problem  nodes ")
    assert "no process that is running has registered greter there; did you mean 'greeter'?" in problem
    assert fix.startswith("         start it on this machine")
    assert verdict == "1 problem"


@pytest.mark.parametrize(
    ("registry", "address", "words"),
    [
        ("static", "shop=127.0.0.1:1", "registry_address lists no node of shops; did you mean 'shop'?"),
        ("memory", "", "no node of shops in this process"),
    ],
)
async def test_other_registries_say_what_they_have(
    pymicro: Commands, registry: str, address: str, words: str
) -> None:
    result = await pymicro("doctor", "shops", MICRO_REGISTRY=registry, MICRO_REGISTRY_ADDRESS=address)
    assert result.code == 1
    assert result.out.count("problem") == 2  # the finding and the verdict
    assert words in result.out


async def test_a_registry_that_cannot_work_is_a_finding(pymicro: Commands) -> None:
    result = await pymicro("doctor", "greeter", "--registry-address", "/proc/nobody/here")
    assert (result.code, result.err) == (1, "")
    problem, verdict = result.out.splitlines()[-2:]
    assert problem.startswith("problem  registry ")
    assert "/proc/nobody/here" in problem
    assert verdict == "1 problem"


async def test_a_folder_that_became_unusable_is_a_finding(registry_folder: str) -> None:
    async with LocalRegistry(load(environ={"MICRO_REGISTRY_ADDRESS": registry_folder})) as registry:
        os.chmod(registry_folder, 0o755)
        (finding,) = [finding async for finding in registry.diagnose("greeter")]
    assert (finding.check, finding.level) == ("folder", "problem")
    assert "is open to other users" in finding.text


async def test_without_a_service_it_says_who_is_there(pymicro: Commands, processes: Processes) -> None:
    processes.pymicro("run", "examples/greeter/server.py", cwd=ROOT).wait_for("registered")
    result = await pymicro("doctor")
    assert result.code == 0
    assert re.search(r"^ok       services +greeter$", result.out, re.MULTILINE)


async def test_a_name_of_the_dns_is_looked_up_and_each_address_called(pymicro: Commands) -> None:
    async with greeter() as port:
        result = await pymicro(
            "doctor", "localhost", "--selector=static", STATIC_SELECTOR_PORT_NUMBER=str(port)
        )
    assert re.search(r"^ok       DNS +localhost is .*127\.0\.0\.1", result.out, re.MULTILINE)
    assert re.search(rf"^ok       node 127\.0\.0\.1:{port} +SERVING", result.out, re.MULTILINE)


async def test_a_name_that_does_not_resolve_says_what_kubernetes_would_need(pymicro: Commands) -> None:
    result = await pymicro("doctor", "no-such-name.invalid", "--selector=static")
    assert result.code == 1
    assert re.search(r"^problem  DNS +no-such-name\.invalid does not resolve: ", result.out, re.MULTILINE)
    assert "is there a Service of that name" in result.out


async def test_what_cannot_be_a_dns_name_is_said_by_the_selector(pymicro: Commands) -> None:
    result = await pymicro("doctor", "a b", "--selector=static")
    assert result.code == 1
    assert "'a b' is no DNS name" in result.out


async def test_what_the_selector_dns_found_is_said_and_called(pymicro: Commands) -> None:
    async with greeter() as port:
        result = await pymicro("doctor", f"localhost:{port}", "--selector=dns")
    found = rf"^ok       selector +DNS name localhost:{port}: [1-9] node"
    assert re.search(found, result.out, re.MULTILINE)
    assert re.search(rf"^ok       node 127\.0\.0\.1:{port} +SERVING", result.out, re.MULTILINE)


async def test_one_address_may_be_a_cluster_ip_and_several_are_not() -> None:
    findings, nodes = await doctor_nodes.resolve(Node("n", "127.0.0.1:80", "greeter", kind="name"))
    assert [finding.level for finding in findings] == ["ok"]  # an address is what was asked for
    assert [node.address for node in nodes] == ["127.0.0.1:80"]
    findings, nodes = await doctor_nodes.resolve(Node("n", "localhost:80", "greeter", kind="name"))
    assert [finding.level for finding in findings] == ["ok", "note"][: 2 if len(nodes) == 1 else 1]


# Settings


def levels(environ: dict[str, str], *argv: str) -> list[tuple[str, str]]:
    found = check_settings(load({}, argv, environ), environ)
    return [(finding.level, finding.text) for finding in found[1:]]


def test_a_misspelt_variable_is_noted_with_what_was_meant() -> None:
    ((level, text),) = levels({"MICRO_REGISTY": "kubernetes"})
    assert level == "note"
    assert text == "MICRO_REGISTY is no setting; did you mean 'MICRO_REGISTRY'?"


def test_a_pod_that_was_not_told_its_registry_is_a_problem() -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    ((level, text),) = levels(pod)
    assert level == "problem"
    assert "the registry is the default, local" in text
    assert levels({**pod, "MICRO_REGISTRY": "local"}) == []
    assert levels({**pod, "MICRO_SELECTOR": "static"}) == []


def test_settings_that_do_nothing_here_are_noted() -> None:
    environ = {"MICRO_BROKER": "nats", "STATIC_SELECTOR_PORT_NUMBER": "9000"}
    broker, port = levels(environ)
    assert broker == ("note", "go-micro's, which change nothing here: environment MICRO_BROKER")
    assert port[0] == "note"
    assert "only the selector static reads it" in port[1]
    assert len(levels(environ, "--selector=static")) == 1


# Bounds


class Told(MemoryRegistry):
    """A registry that finds what it is told to."""

    def __init__(self, *findings: Finding, hangs: bool = False) -> None:
        super().__init__()
        self.findings = findings
        self.hangs = hangs
        self.closed = False

    async def diagnose(self, service: str) -> Any:
        try:
            for finding in self.findings:
                yield finding
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_a_registry_that_hangs_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_STEP_TIMEOUT", 0.1)
    registry = Told(Finding("one", "ok", "fine"), hangs=True)
    found = [finding async for finding in check(Client(registry=registry), "greeter")]
    assert [(finding.check, finding.level) for finding in found[1:]] == [
        ("one", "ok"),
        ("registry", "problem"),
    ]
    assert found[-1].text.endswith("no answer in 0.1 s")
    assert registry.closed


async def test_what_the_registry_has_explained_is_not_said_twice() -> None:
    registry = Told(Finding("pods", "problem", "none is ready"))
    found = [finding async for finding in check(Client(registry=registry), "greeter")]
    assert [finding.text for finding in found if finding.level == "problem"] == ["none is ready"]


async def test_no_node_is_a_problem_where_the_registry_saw_none() -> None:
    found = [finding async for finding in check(Client(registry=Told()), "greeter")]
    assert found[-1].level == "problem"
    assert found[-1].text.startswith("no node of greeter: registry memory listed 0 nodes")


async def test_a_registry_that_diagnoses_nothing_is_named() -> None:
    class Plain:
        """Delegates, and so has no `diagnose`."""

        name, drain_delay = "plain", 0.0

        def __init__(self) -> None:
            self.inner = MemoryRegistry()

        def describe(self) -> str:
            return "registry plain"

        async def __aenter__(self) -> Plain:
            return self

        async def __aexit__(self, *error: object) -> None:
            return None

        def watch(self, service: str) -> Any:
            return self.inner.watch(service)

        async def services(self) -> list[str]:
            return []

        async def register(self, node: Node) -> None: ...

    client = Client(registry=Plain())  # type: ignore[arg-type]
    found = [finding async for finding in check(client, "")]
    assert [(finding.check, finding.text) for finding in found[1:]] == [
        ("registry", "registry plain"),
        ("services", "none has a node now"),
    ]


# Output


async def test_bad_input_is_one_message_and_code_2(pymicro: Commands) -> None:
    for argv in (["--registry=kubernets"], ["-o", "yaml"], ["a", "b"]):
        result = await pymicro("doctor", *argv)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("pymicro doctor: ")


async def test_what_others_wrote_cannot_steer_the_terminal(pymicro: Commands) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no \x1b[2J token")

    async with foreign_server(health_that(refuse)) as address:
        result = await pymicro(
            "doctor", "greeter", "--registry=static", f"--registry-address=greeter={address}"
        )
    assert "no \\x1b[2J token" in result.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.out)


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
async def test_only_a_terminal_gets_colours(pymicro: Commands, env: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    try:
        pymicro.env.pop("NO_COLOR", None)
        async with pymicro.started("doctor", stdout=theirs, **{"TERM": "xterm", **env}) as process:
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        printed = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"all is well" in printed
    assert (b"\x1b[1;32m" in printed) is coloured
    piped: Result = await pymicro("doctor", TERM="xterm")
    assert "\x1b" not in piped.out


# One id for two


async def test_two_processes_with_one_id_are_noted(pymicro: Commands, processes: Processes) -> None:
    for _ in range(2):
        server = processes.pymicro("run", "examples/greeter/server.py", "--server-id", "one", cwd=ROOT)
        server.wait_for("registered")
    result = await pymicro("doctor", "greeter", "-o", "json")
    assert result.code == 0
    (found,) = (one for one in json.loads(result.out)["findings"] if one["check"] == "ids")
    assert found["level"] == "note"
    assert re.match(r"2 nodes have the id one: 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+; calls", found["text"])
    assert "server_id" in found["fix"]


# Watches that are held


async def test_a_watch_is_held_only_where_something_can_cut_it(pymicro: Commands) -> None:
    result = await pymicro("doctor", "--watch", "2s")
    assert result.code == 0
    assert "nothing on the way can cut those of registry local" in result.out
    for bad in ("soon", "1h"):
        result = await pymicro("doctor", "--watch", bad)
        assert (result.code, result.out) == (2, "")
        assert result.err.count("\n") == 1
        assert "--watch" in result.err


class Unlistable(MemoryRegistry):
    async def services(self) -> list[str]:
        raise RegistryError("the registry is away")


async def test_a_registry_whose_services_cannot_be_listed_is_a_problem() -> None:
    found = [finding async for finding in check(Client(registry=Unlistable()), "")]
    assert (found[-1].check, found[-1].level) == ("services", "problem")


async def test_a_service_that_is_not_well_is_a_problem_and_its_reason_stays_with_it(
    pymicro: Commands,
) -> None:
    service = Service("greeter", registry=MemoryRegistry())
    service.set_health(False, "the password is secret")
    async with service:
        finding = await the_only(pymicro, service.address)
    assert finding["text"] == "is NOT_SERVING: it starts or stops, or says of itself that it is not well"
    assert "health check" in finding["fix"]
    assert "secret" not in str(finding)
