"""Programs with a synchronous client: their end, Ctrl-C, forks, and loops beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.processes import ROOT, Process, Processes, clean_environment
from tests.sync.conftest import TRANSPORTS, Served

HEAD = """
import asyncio, multiprocessing, os, sys, threading, time, warnings

import grpc
import pymicro
from tests.protos import zoo_pb2 as pb, zoo_pb2_grpc as rpc

warnings.simplefilter("ignore")  # 3.12 and newer warn of forks beside threads
ANT = pb.Animal(name="ant")
client = pymicro.sync.Client()
stub = rpc.KeeperStub(client.channel("zoo"))


def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, served: Served, tmp_path: Path) -> object:
    """Runs a program to its end; what it printed to stdout and to stderr."""

    def run(program: str, *flags: str, code: int = 0) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, *flags, "-c", HEAD + dedent(program)],
            cwd=ROOT,
            # With its fork support, grpc-core itself crashes a child now and then, before Python goes on.
            env=clean_environment(
                MICRO_REGISTRY_ADDRESS=served.registry,
                MICRO_TRANSPORT=request.param,
                MICRO_LOOP_LAG="0",  # a busy machine is worth no word here
                GRPC_ENABLE_FORK_SUPPORT="0",
            ),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.splitlines(), done.stderr

    return run


ENDS = {
    "after a call": "say(stub.Import(ANT).name)",
    "without a call": 'say("ANT")',
    "in a stream": """
        call = stub.Watch(pb.Query(name="hang:exit"))
        say(next(call).name.replace("first", "ANT"))
        """,
    "with a future": """
        future = stub.Import.future(pb.Animal(name="hang:exit"), timeout=100)
        say(stub.Import(ANT).name)
        """,
    "with requests that wait": """
        def requests():
            yield ANT
            threading.Event().wait()
        call = stub.Talk(requests())
        say(next(call).name)
        """,
    "with threads that call": """
        def work():
            while True:
                stub.Import(ANT)
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        say(stub.Import(ANT).name)
        """,
    "while a thread that is no daemon calls": """
        import concurrent.futures
        stub.Import(ANT)  # some Pythons start no thread when the main one has ended
        def work():
            time.sleep(0.3)
            say(stub.Import(ANT).name)
        concurrent.futures.ThreadPoolExecutor(1).submit(work)
        """,
    "with an exit": """
        say(stub.Import(ANT).name)
        sys.exit(0)
        """,
    "with a callback that waits": """
        stub.Import.future(ANT).add_done_callback(lambda _: threading.Event().wait())
        say(stub.Import(ANT).name)
        """,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_in_silence(run: object, end: str) -> None:
    assert run(ENDS[end]) == (["ANT"], "")  # type: ignore[operator]


def test_calls_at_the_exit_are_made_or_refused(run: object) -> None:
    """Handlers that were registered before the first call run after the client has closed."""
    out, err = run(  # type: ignore[operator]
        """
        import atexit

        @atexit.register
        def late():
            try:
                stub.Import(ANT)
            except pymicro.PymicroError as exc:
                say(exc)

        stub.Import(ANT)
        atexit.register(lambda: say(stub.Import(ANT).name))
        """
    )
    assert (out, err) == (["ANT", "this process is ending, and its synchronous clients are closed"], "")


# Brings a signal into the first call, while the loop's thread opens the client.
SIGNALLED = """
import signal
from contextlib import suppress

opening, handled = pymicro.Client.__aenter__, threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: handled.is_set() or handler())

async def slowly(self):
    while not handled.is_set():  # one that comes just before the main thread waits is not seen
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        await asyncio.to_thread(handled.wait, 0.1)
    return await opening(self)

pymicro.Client.__aenter__ = slowly
"""


def test_a_handler_of_a_signal_may_call_while_the_client_is_opened(run: object) -> None:
    program = """
def handler():
    handled.set()
    say("handler", stub.Import(ANT).name)

say(stub.Import(ANT).name)
"""
    assert run(SIGNALLED + program) == (["handler ANT", "ANT"], "")  # type: ignore[operator]


def test_an_interrupted_first_call_spoils_no_later_one(run: object) -> None:
    program = """
def handler():
    handled.set()
    raise KeyboardInterrupt

with suppress(KeyboardInterrupt):
    stub.Import(ANT)
    say("not interrupted")
say(stub.Import(ANT).name)
client.close()
"""
    assert run(SIGNALLED + program) == (["ANT"], "")  # type: ignore[operator]


def test_a_client_may_be_closed_while_it_is_opened(run: object) -> None:
    program = """
def handler():
    client.close()
    handled.set()

try:
    stub.Import(ANT)
except pymicro.PymicroError as exc:
    say(exc)
"""
    out = ["this synchronous client is closed: make another one"]
    assert run(SIGNALLED + program) == (out, "")  # type: ignore[operator]


def test_the_first_call_may_come_when_the_main_thread_has_ended(run: object) -> None:
    program = """
def work():
    threading.main_thread().join()
    try:
        say(stub.Import(ANT).name)
    except pymicro.PymicroError as exc:  # some Pythons start no thread any more
        say(str(exc).partition(" be started")[0])

threading.Thread(target=work).start()
"""
    out, err = run(program)  # type: ignore[operator]
    assert out in (["ANT"], ["the thread of synchronous clients cannot"])
    assert err == ""


@pytest.mark.parametrize("exception", ["KeyboardInterrupt", "SystemExit"])
def test_what_ends_a_program_ends_one_call_if_an_interceptor_raises_it(run: object, exception: str) -> None:
    program = f"""
async def ends(call, proceed):
    raise {exception}

other = rpc.KeeperStub(pymicro.sync.Client(interceptors=[ends]).channel("zoo"))
say(stub.Import(ANT).name)
try:
    other.Import(ANT, timeout=100)
except pymicro.Cancelled as exc:
    say(type(exc).__name__)
say(stub.Import(ANT).name)
"""
    out, err = run(program)  # type: ignore[operator]
    assert out == ["ANT", "Cancelled", "ANT"]
    assert "something tried to end the event loop of synchronous clients" in err


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
def test_a_program_without_standard_streams_ends_well(served: Served, tmp_path: Path, closed: str) -> None:
    """libuv aborts when a file of its own that has got such a number is closed."""
    told = tmp_path / "told"
    program = HEAD + f"open({str(told)!r}, 'w').write(stub.Import(ANT).name)"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(MICRO_REGISTRY_ADDRESS=served.registry),
        timeout=100,
        check=False,
    )
    assert (done.returncode, told.read_text()) == (0, "ANT")


FORKED = "this synchronous client was used before the process was forked, and its connections have stayed"

CHILD = """
def child(work):
    try:
        say(work())
    except pymicro.PymicroError as exc:
        say(exc)
        os._exit(0)  # without taking the parent's gRPC objects apart

def fork(work):
    process = multiprocessing.get_context("fork").Process(target=child, args=(work,))
    process.start()
    process.join(60)
    say("child ended with", process.exitcode)
"""


def test_a_client_that_was_made_before_the_fork_works_after_it(run: object) -> None:
    out, err = run(CHILD + "fork(lambda: stub.Import(ANT).name)\nfork(lambda: stub.Import(ANT).name)")  # type: ignore[operator]
    assert (out, err) == (["ANT", "child ended with 0"] * 2, "")


@pytest.mark.parametrize(
    "work",
    [
        "lambda: stub.Import(ANT).name",
        "lambda: stub.Import.future(ANT).result().name",
        "lambda: list(stub.Talk(iter([ANT])))",
        "lambda: next(call)",
        "lambda: call.code()",
        "lambda: call.initial_metadata()",
        "lambda: waiting.result()",
        "lambda: client.nodes('zoo')",
        "lambda: (call.cancel(), stub.Import(ANT))",
    ],
)
def test_a_client_that_was_used_before_the_fork_says_so_after_it(run: object, work: str) -> None:
    program = f"""
call = stub.Watch(pb.Query(name="hang:fork"))
say(next(call).name)
waiting = stub.Import.future(pb.Animal(name="hang:fork"), timeout=100)
fork({work})
say(stub.Import(ANT).name)
"""
    out, err = run(CHILD + program)  # type: ignore[operator]
    assert out[0] == "first"
    assert out[1].startswith(FORKED)
    assert "gunicorn's hook post_fork" in out[1]
    assert out[2:] == ["child ended with 0", "ANT"]
    assert err == ""


def test_another_client_in_a_child_of_a_process_that_has_used_one_is_told_too(run: object) -> None:
    program = """
stub.Import(ANT)
other = pymicro.sync.Client()
fork(lambda: rpc.KeeperStub(other.channel("zoo")).Import(ANT).name)
"""
    out, _ = run(CHILD + program)  # type: ignore[operator]
    assert out[0].startswith("this process was forked after gRPC was used")
    assert "fork before the first call" in out[0]


@pytest.mark.parametrize(
    ("module", "question", "threads"),
    [
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ],
)
def test_where_threads_were_replaced_it_says_so(
    run: object, module: str, question: str, threads: str
) -> None:
    out, _ = run(  # type: ignore[operator]
        f"""
        import types
        sys.modules["{module}"] = types.SimpleNamespace({question}=lambda name: name == "{threads}")
        try:
            stub.Import(ANT)
        except pymicro.PymicroError as exc:
            say(exc)
        """
    )
    assert out[0].startswith(f"{module.partition('.')[0]} has replaced the threads of this program")


def interruptible(processes: Processes, served: Served, program: str, transport: str) -> Process:
    return processes.python(
        "-c",
        HEAD + dedent(program),
        MICRO_REGISTRY_ADDRESS=served.registry,
        MICRO_TRANSPORT=transport,
        MICRO_LOOP_LAG="0",
    )


WAITS = {
    "a call": 'stub.Import(pb.Animal(name="hang:interrupt"), timeout=100)',
    "a future": 'stub.Import.future(pb.Animal(name="hang:interrupt"), timeout=100).result()',
    "a stream": 'list(stub.Watch(pb.Query(name="hang:interrupt")))',
    "a stream of requests": "stub.Count(waiting())",
    "a code": 'call = stub.Watch(pb.Query(name="hang:interrupt")); call.code()',
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_ends_the_wait_and_the_call(
    processes: Processes, served: Served, what: str, transport: str
) -> None:
    process = interruptible(
        processes,
        served,
        f"""
        go = threading.Event()

        def waiting():
            yield pb.Animal(name="hang")
            go.wait()

        def live():
            names = ("interrupt", "count")
            return sum(stub.Import(pb.Animal(name="live:" + name)).legs for name in names)

        def tell():
            while not live():
                time.sleep(0.01)
            say("it waits")

        stub.Import(ANT)
        threading.Thread(target=tell, daemon=True).start()
        try:
            {WAITS[what]}
        except KeyboardInterrupt:
            say("interrupted")
        call = None
        go.set()
        while live():
            time.sleep(0.01)
        say("the service has heard of it")
        say(len(client._client.core.live), "calls are left")
        say(stub.Import(ANT).name)
        """,
        transport,
    )
    process.wait_for("it waits")
    process.signal(signal.SIGINT)
    assert process.wait(60) == 0, process.report()
    assert process.stdout == [
        "it waits",
        "interrupted",
        "the service has heard of it",
        "0 calls are left",
        "ANT",
    ]
    assert process.stderr == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ctrl_c_that_nobody_catches_ends_the_program(
    processes: Processes, served: Served, transport: str
) -> None:
    process = interruptible(
        processes,
        served,
        """
        call = stub.Watch(pb.Query(name="hang:end"))
        say(next(call).name)
        next(call)
        """,
        transport,
    )
    process.wait_for("first")
    process.signal(signal.SIGINT)
    assert process.wait(60) in (-signal.SIGINT, 130), process.report()
    assert process.stderr[-1] == "KeyboardInterrupt"
    assert sum("Traceback" in line for line in process.stderr) == 1


def test_an_asynchronous_program_before_and_after_it(run: object) -> None:
    """One after the other, loops may have gRPC."""
    out, err = run(  # type: ignore[operator]
        """
        async def ask():
            async with pymicro.Client() as client:
                return (await rpc.KeeperStub(client.channel("zoo")).Import(ANT)).name

        say(asyncio.run(ask()))
        with client:
            say(stub.Import(ANT).name)
        say(asyncio.run(ask()))
        """
    )
    assert (out, err) == (["ANT"] * 3, "")
