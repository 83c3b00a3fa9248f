"""A service as a process: start, signals, stop, and what it says when it cannot start."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from textwrap import dedent

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_pb2_grpc import GreeterStub
from pymicro import Client
from tests.processes import Process, Processes
from tests.serving.serving import headers_with_path

LISTENS = r"greeter .* on (127\.0\.0\.1:\d+), registered"

HEAD = """
import asyncio, os, sys, threading, time
from pymicro import Service, handler, CallContext
from greeter.v1 import greeter_pb2 as pb

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        if request.name == "slow":
            print("slow call began", flush=True)
            await asyncio.sleep(1.5)
        if request.name == "interrupt":
            raise KeyboardInterrupt
        if request.name == "thread":
            print("a thread began", flush=True)
            await asyncio.to_thread(time.sleep, 60)
        if request.name == "endless":
            print("endless call began", flush=True)
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    print("cancelled", flush=True)
                    raise
        return pb.HelloReply(message=f"Hello {request.name}", pid=os.getpid())

    @handler
    async def count_down(self, request: pb.CountDownRequest, context: CallContext):
        print("stream began", flush=True)
        yield pb.CountDownReply(number=1)
        await context.draining.wait()
        yield pb.CountDownReply(number=0)

    @handler
    async def greet_all(self, requests) -> pb.HelloReply: ...

    @handler
    async def chat(self, requests):
        yield
"""

MAIN = """
service = Service("greeter", version="1.0.0")
service.add(Greeter(), pb)
{more}
if __name__ == "__main__":
    service.init()
    service.run()
    print("after run", flush=True)
"""


EMBEDDED = """
service = Service("greeter", server_address="127.0.0.1:0", drain_delay=60, stop_grace=60)
service.add(Greeter(), pb)

async def main():
    async with service:
        print("greeter is on", service.address + ", registered", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("told to stop", flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


@pytest.fixture
def write(tmp_path: Path) -> object:
    def write(more: str = "", head: str = HEAD, main: str = MAIN) -> str:
        path = tmp_path / "app.py"
        path.write_text(head + main.format(more=dedent(more)))
        return str(path)

    return write


def start(processes: Processes, path: str, *flags: str, **env: str) -> Process:
    return processes.python(path, *flags, PYTHONPATH="examples/greeter", **env)


def call(processes: Processes, address: str, name: str, *flags: str) -> Process:
    return processes.pymicro(
        "call", "greeter", "SayHello", f'{{"name": "{name}"}}', "--address", address, *flags
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(processes: Processes, write: object, number: signal.Signals) -> None:
    server = start(processes, write())  # type: ignore[operator]
    server.wait_for(LISTENS)
    server.signal(number)
    assert server.wait() == 0, server.report()
    assert server.stdout[-1] == "after run"
    nodes = processes.pymicro("nodes", "greeter")
    assert nodes.wait() == 1
    assert "0 nodes" in nodes.stderr[-1]


def test_a_call_in_flight_finishes_and_new_ones_are_refused(processes: Processes, write: object) -> None:
    server = start(processes, write())  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    slow = call(processes, address, "slow")
    server.wait_for("slow call began")
    server.signal(signal.SIGTERM)
    server.wait_for("SIGTERM received")
    assert slow.wait() == 0, slow.report()
    assert "Hello slow" in slow.stdout[0]
    assert server.wait() == 0, server.report()


def test_a_long_stream_is_told_to_end(processes: Processes, write: object) -> None:
    server = start(processes, write())  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    stream = processes.pymicro("call", "greeter", "CountDown", "{}", "--address", address)
    stream.wait_for("1")
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0, server.report()
    assert stream.wait() == 0, stream.report()
    assert len(stream.stdout) == 2


def test_a_call_that_never_ends_is_cut_at_the_end_of_the_grace(processes: Processes, write: object) -> None:
    server = start(processes, write(), "--stop-grace", "300ms")  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    endless = call(processes, address, "endless", "--timeout", "60")
    server.wait_for("endless call began")
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0, server.report()
    assert "cancelled" in server.stdout
    assert endless.wait() == 64 + 14, endless.report()


def test_a_second_signal_skips_the_waiting(processes: Processes, write: object) -> None:
    server = start(processes, write(), "--drain-delay", "60s", "--stop-grace", "60s")  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    call(processes, address, "endless", "--timeout", "60")
    server.wait_for("endless call began")
    server.signal(signal.SIGTERM)
    server.wait_for("SIGTERM received")
    assert server.running
    server.signal(signal.SIGINT)
    assert server.wait(15) == 128 + signal.SIGINT, server.report()


def test_a_keyboard_interrupt_in_a_handler_stops_the_service_cleanly(
    processes: Processes, write: object
) -> None:
    server = start(processes, write())  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    failed = call(processes, address, "interrupt")
    assert failed.wait() == 64 + 13, failed.report()
    assert server.wait(15) == 128 + signal.SIGINT, server.report()
    assert "greeter has stopped" in "".join(server.stderr), server.report()


def test_a_keyboard_interrupt_in_a_handler_ends_the_program_around_a_service(
    processes: Processes, write: object
) -> None:
    server = start(processes, write(main=EMBEDDED.replace("=60", "=0.1")))  # type: ignore[operator]
    failed = call(processes, server.wait_for(LISTENS)[1], "interrupt")
    assert failed.wait() == 64 + 13, failed.report()
    assert server.wait(15) == -signal.SIGINT, server.report()
    assert server.stdout[-2:] == ["told to stop", "interrupted"]


def test_a_second_interrupt_hurries_the_stop_of_a_service_in_a_program(
    processes: Processes, write: object
) -> None:
    server = start(processes, write(main=EMBEDDED))  # type: ignore[operator]
    call(processes, server.wait_for(LISTENS)[1], "endless", "--timeout", "60")
    server.wait_for("endless call began")
    server.signal(signal.SIGINT)
    server.wait_for("told to stop")
    server.signal(signal.SIGINT)
    assert server.wait(15) == -signal.SIGINT, server.report()
    assert server.stdout[-2:] == ["cancelled", "interrupted"]


def test_threads_that_still_run_are_named_and_left_behind(processes: Processes, write: object) -> None:
    server = start(processes, write(), "--stop-grace", "300ms")  # type: ignore[operator]
    call(processes, server.wait_for(LISTENS)[1], "thread", "--timeout", "60")
    server.wait_for("a thread began")
    server.signal(signal.SIGTERM)
    server.wait_for(r"greeter: these threads still run, .*_0 at .*thread\.py:\d+")
    assert server.wait(15) == 3, server.report()


def test_a_third_signal_ends_a_process_whose_stop_hook_hangs(processes: Processes, write: object) -> None:
    hook = """
@service.on_stop
async def hang():
    print("it hangs", flush=True)
    await asyncio.Event().wait()

"""
    server = start(processes, write(more=hook))  # type: ignore[operator]
    server.wait_for(LISTENS)
    server.signal(signal.SIGTERM)
    server.wait_for("it hangs")
    server.signal(signal.SIGINT)
    server.signal(signal.SIGTERM)
    assert server.wait(15) in (128 + signal.SIGTERM, 128 + signal.SIGINT), server.report()


def test_tasks_that_ignore_their_cancellation_are_named_and_left_behind(
    processes: Processes, write: object
) -> None:
    stubborn = """
async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@service.on_start
async def begin():
    service.kept = asyncio.create_task(stubborn(), name="stubborn")

"""
    server = start(processes, write(more=stubborn), "--stop-grace", "300ms")  # type: ignore[operator]
    server.wait_for(LISTENS)
    server.signal(signal.SIGTERM)
    server.wait_for("greeter: these tasks ignore a cancellation, .*: stubborn$")
    assert server.wait(15) == 3, server.report()


def test_threads_that_end_within_the_grace_are_waited_for(processes: Processes, write: object) -> None:
    main = MAIN.replace("service.run()", "service.run(); print('all joined', flush=True)")
    slow = "service.on_stop(lambda: threading.Thread(target=time.sleep, args=(0.3,)).start())"
    server = start(processes, write(slow, main=main))  # type: ignore[operator]
    server.wait_for(LISTENS)
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0, server.report()
    assert "all joined" in server.stdout
    assert "these threads" not in "".join(server.stderr), server.report()


async def test_it_serves_on_while_watchers_catch_up(processes: Processes, write: object) -> None:
    server = start(processes, write(), "--drain-delay", "3s")  # type: ignore[operator]
    address = server.wait_for(LISTENS)[1]
    # Called from here: a process that calls may need those 3 s to start.
    async with Client(registry="static", registry_address=f"greeter={address}") as client:
        server.signal(signal.SIGTERM)
        server.wait_for("SIGTERM received")
        stub = GreeterStub(client.channel("greeter"))
        assert (await stub.SayHello(pb.HelloRequest(name="late"))).message == "Hello late"
    gone = processes.pymicro("nodes", "greeter")
    assert gone.wait() == 1  # deregistered first
    assert server.wait() == 0


def test_a_signal_during_the_start_cancels_it(processes: Processes, write: object) -> None:
    path = write("""
        @service.on_start
        async def slow_start():
            print("starting", flush=True)
            await asyncio.sleep(3600)

        @service.on_stop
        async def stopped():
            print("stopped", flush=True)
        """)  # type: ignore[operator]
    server = start(processes, path)
    server.wait_for("starting")
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0, server.report()
    assert "Traceback" not in server.report()


def test_a_start_hook_that_fails_ends_with_1(processes: Processes, write: object) -> None:
    path = write("""
        @service.on_start
        def broken(service):
            raise KeyError("no such table")
        """)  # type: ignore[operator]
    server = start(processes, path)
    assert server.wait() == 1, server.report()
    assert any("no such table" in line for line in server.stderr)


def test_a_registration_that_is_refused_ends_at_once_with_2(processes: Processes, write: object) -> None:
    # Nobody was told of it, so nobody has to be given time to see it leave.
    server = start(processes, write(), "--registry", "kubernetes", "--drain-delay", "60s")  # type: ignore[operator]
    assert server.wait(15) == 2, server.report()
    assert any("runs outside a pod of Kubernetes" in line for line in server.stderr)


def test_a_registry_that_is_away_is_not_said_to_have_it(processes: Processes, write: object) -> None:
    away = ("--registry", "etcd", "--registry-address", "127.0.0.1:1", "--drain-delay", "0")
    server = start(processes, write(), *away)  # type: ignore[operator]
    server.wait_for(r"on 127\.0\.0\.1:\d+, not yet registered$")
    assert server.stop() == 0, server.report()


def test_hooks_and_lifespan_run_in_order_around_the_service(processes: Processes, write: object) -> None:
    path = write("""
        from contextlib import asynccontextmanager

        def say(text):
            print(text, flush=True)

        @asynccontextmanager
        async def lifespan(it):
            say(f"lifespan begins of {it.name}")
            assert it.address == it.node.address
            async with asyncio.TaskGroup() as group:  # must be left by the task that entered it
                task = group.create_task(asyncio.sleep(3600))
                here = asyncio.current_task()
                yield
                assert asyncio.current_task() is here
                task.cancel()
            say("lifespan ends")

        service = Service("greeter", version="1.0.0", lifespan=lifespan,
                          on_start=lambda: say("on_start"), on_stop=lambda it: say("on_stop " + it.name))
        service.add(Greeter(), pb)
        """)  # type: ignore[operator]
    server = start(processes, path)
    server.wait_for(LISTENS)
    assert server.stop() == 0
    assert server.stdout == [
        "lifespan begins of greeter",
        "on_start",
        "lifespan ends",
        "on_stop greeter",
        "after run",
    ]


def test_a_taken_port_is_said(processes: Processes, write: object) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = start(processes, write(), "--server-address", address)  # type: ignore[operator]
        assert server.wait() == 1, server.report()
    assert address in server.stderr[-1]
    assert "Traceback" not in server.report()


def test_two_services_cannot_share_a_port(processes: Processes, write: object) -> None:
    path = write()  # type: ignore[operator]
    first = start(processes, path)
    address = first.wait_for(LISTENS)[1]
    second = start(processes, path, "--server-address", address)
    assert second.wait() == 1, second.report()
    assert first.running


def test_handlers_that_do_not_fit_end_with_2_before_anything_is_bound(
    processes: Processes, write: object
) -> None:
    path = write("""
        class Wrong:
            @handler
            async def say_helo(self, request): ...
            @handler
            def chat(self, request): ...

        service = Service("greeter")
        service.add(Wrong(), pb.DESCRIPTOR.services_by_name["Greeter"])
        """)  # type: ignore[operator]
    server = start(processes, path)
    assert server.wait() == 2, server.report()
    report = "\n".join(server.stderr)
    assert "Traceback" not in report
    assert re.search(r"app\.py:\d+", report)
    for word in ("say_helo", "SayHello", "chat", "GreetAll", "CountDown", "did you mean"):
        assert word in report
    assert "registered" not in report


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--registy", "local"], ["--registy", "--registry"]),
        (["--registry", "locl"], ["locl", "known", "local", "memory", "static"]),
        (["--balancer", "fastest"], ["fastest", "round_robin"]),
        (["--stop-grace", "soon"], ["--stop-grace", "soon"]),
        (["--server-address", "nowhere"], ["nowhere"]),
        (["--registry", "static", "--registry-address", "greeter"], ["greeter"]),
        (["extra"], ["extra"]),
    ],
)
def test_bad_flags_get_one_message_and_2(
    processes: Processes, write: object, flags: list[str], words: list[str]
) -> None:
    server = start(processes, write(), *flags)  # type: ignore[operator]
    assert server.wait() == 2, server.report()
    assert "Traceback" not in server.report()
    assert len(server.stderr) == 1
    for word in words:
        assert word in server.stderr[0]


def test_settings_are_printed_with_their_sources(processes: Processes, write: object) -> None:
    path = write('service = Service("greeter", stop_grace=3.0)')  # type: ignore[operator]
    shown = start(processes, path, "--print-config", "--register_ttl", "9", MICRO_BALANCER="random")
    assert shown.wait() == 0, shown.report()
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in shown.stdout}
    assert lines["stop_grace"] == ["3s", "code"]
    assert lines["register_ttl"] == ["9", "flag --register-ttl"]
    assert lines["balancer"] == ["random", "environment MICRO_BALANCER"]
    assert lines["selector"] == ["registry", "default"]
    assert lines["server_name"] == ["greeter", "code"]


def test_go_micros_environment_starts_it_with_a_line_each(processes: Processes, write: object) -> None:
    server = start(
        processes,
        write(),  # type: ignore[operator]
        MICRO_BROKER="http",
        MICRO_CLIENT_POOL_SIZE="3",
        MICRO_REGISTER_TTLS="5",
        MICRO_PORT="tcp://10.0.0.1:80",
        MICRO_SERVICE_HOST="10.0.0.1",
    )
    server.wait_for(LISTENS)
    assert server.stop() == 0
    log = "\n".join(server.stderr)
    assert "MICRO_BROKER" in log
    assert "MICRO_CLIENT_POOL_SIZE" in log
    assert "MICRO_REGISTER_TTLS is no setting" in log
    assert "MICRO_PORT" not in log
    assert "MICRO_SERVICE_HOST" not in log


def test_json_lines_on_request(processes: Processes, write: object) -> None:
    import json

    server = start(processes, write(), "--log-format", "json")  # type: ignore[operator]
    server.wait_for(", registered")
    assert server.stop() == 0
    entries = [json.loads(line) for line in server.stderr]
    assert all(entry.keys() >= {"time", "level", "logger", "message"} for entry in entries)


def test_a_removed_record_is_written_again(processes: Processes, write: object, registry_folder: str) -> None:
    server = start(processes, write(), "--register-interval", "1")  # type: ignore[operator]
    server.wait_for(LISTENS)
    (record,) = Path(registry_folder).iterdir()
    record.unlink()
    watch = processes.pymicro("nodes", "greeter", "-w")
    watch.wait_for("greeter-")
    assert server.stop() == 0


def test_a_server_that_breaks_is_deregistered_and_ends_with_1(processes: Processes, write: object) -> None:
    # The call that broke it never ends, and a stop waits for it: the default 20 s show no more than 1 s.
    server = start(processes, write(), "--stop-grace", "1s")  # type: ignore[operator]
    host, _, port = server.wait_for(LISTENS)[1].partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(headers_with_path(b"/a\xff/b"))
        connection.settimeout(10)
        try:
            server.wait_for("serves nobody any more", timeout=5)
        except AssertionError:
            # A grpcio that is not broken by a path that is no UTF-8: then it serves on.
            assert call(processes, f"{host}:{port}", "x").wait() == 0
            return
        assert server.wait() == 1, server.report()
    assert processes.pymicro("nodes", "greeter").wait() == 1
