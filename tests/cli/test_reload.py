from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_pb2_grpc import GreeterStub
from pymicro import Client
from tests.processes import ROOT, Process, Processes, ended, mapped_files, nobody_left, seen

APP = """
import os, signal, time
from greeter.v1 import greeter_pb2 as pb
from pymicro import Service, handler

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply(message="one", pid=os.getpid())

service = Service("greeter", stop_grace=0.2)
service.add(Greeter(), pb, partial=True)
"""
STUCK = """
class Greeter:
    @handler
    async def greet_all(self, requests):
        import asyncio
        print("called", flush=True)
        await asyncio.sleep(60)
"""
SLOW = """
def dismissed(*_):
    print("dismissed", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, dismissed)
print("importing", flush=True)
time.sleep(60)
"""
SERVING = r"greeter latest on (127\.0\.0\.1:\d+)"


class App:
    """A program that `pymicro run --reload` watches."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.file = folder / "server.py"
        self._processes = processes
        self.write()

    def write(self, *changes: tuple[str, str], more: str = "") -> None:
        """The program, with some of its text changed, as editors save: another file under the name."""
        text = APP + more
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        saved = self.folder / "saved.tmp"
        saved.write_text(text)
        # Python takes a cached module for current whose source has this second and size.
        os.utime(saved, (1_000_000_000, 1_000_000_000))
        saved.replace(self.file)

    async def run(self, *flags: str, target: str = "server.py", **env: str) -> Process:
        """Started, and serving."""
        process = self.start(*flags, target=target, **env)
        await seen(process, SERVING)
        return process

    def start(self, *flags: str, target: str = "server.py", **env: str) -> Process:
        path = str(ROOT / "examples" / "greeter")
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "", **env}
        return self._processes.pymicro("run", "--reload", *flags, target, cwd=self.folder, **environment)


@pytest.fixture
def app(tmp_path: Path, processes: Processes) -> App:
    folder = tmp_path / "app"
    folder.mkdir()
    return App(folder, processes)


async def greet(registry_folder: str) -> pb.HelloReply:
    """The answer to one call of whoever is found."""
    async with Client(registry_address=registry_folder) as client:
        return await GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="x"))


def reloads(process: Process) -> list[str]:
    return [line for line in process.stderr if line.startswith("reloading: ")]


async def nodes_left(registry_folder: str, count: int) -> None:
    """Return when the registry lists so many: whoever else held its files has left, or is gone."""
    async with (
        Client(registry_address=registry_folder) as client,
        aclosing(client.watch_nodes("greeter")) as sets,
    ):
        async for nodes in sets:
            if len(nodes) == count:
                return


async def test_a_change_is_named_and_the_new_code_answers(app: App, registry_folder: str) -> None:
    process = await app.run()
    before = await greet(registry_folder)
    app.write(('"one"', '"two"'))
    await seen(process, r"^reloading: server\.py changed$")
    await seen(process, "greeter has stopped")
    after = await greet(registry_folder)
    assert (before.message, after.message) == ("one", "two")
    assert process.pid not in (before.pid, after.pid)
    assert before.pid != after.pid


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_the_supervisor_never_loads_grpc(app: App, registry_folder: str) -> None:
    process = await app.run()
    app.write(('"one"', '"two"'))
    await seen(process, "greeter has stopped")
    child = (await greet(registry_folder)).pid
    loaded = {pid: mapped_files(pid) for pid in (process.pid, child)}
    assert "cygrpc" in loaded[child]
    assert "cygrpc" not in loaded[process.pid]
    assert "_rust_notify" in loaded[process.pid]


BROKEN = {
    "syntax": (("import os", "import os ("), "SyntaxError: ", 1),
    "handlers": (("say_hello", "say_hallo"), r"server\.py:7: Greeter\.say_hallo", 2),
    "start": (("partial=True)", "partial=True)\n@service.on_start\ndef fail(): raise OSError"), "OSError", 1),
}


@pytest.mark.parametrize(("change", "words", "code"), BROKEN.values(), ids=BROKEN)
async def test_code_that_cannot_start_leaves_the_process_before_serving_until_it_is_mended(
    app: App, registry_folder: str, change: tuple[str, str], words: str, code: int
) -> None:
    process = await app.run()
    app.write(change)
    await seen(process, words)
    await seen(process, rf"^not reloaded \(exit code {code}\): the process before serves on; waiting")
    if words == "OSError":  # it was imported, and could not start: perhaps it has to be alone
        await seen(process, "^if two of this program cannot run side by side: --reload-stop-first$")
    assert (await greet(registry_folder)).message == "one"
    app.write(('"one"', '"two"'))
    await seen(process, "greeter has stopped")
    assert (await greet(registry_folder)).message == "two"


async def test_code_that_is_broken_at_first_is_waited_for(app: App, registry_folder: str) -> None:
    app.write(("import os", "import os ("))
    process = app.start()
    await seen(process, r"^not serving \(exit code 1\): waiting for a change$")
    app.write()
    await seen(process, SERVING)
    assert (await greet(registry_folder)).message == "one"
    app.write(("import os", "import os ("))
    await seen(process, "^not reloaded")
    process.signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_a_process_that_crashes_later_is_told_of_and_not_started_in_a_loop(
    app: App, registry_folder: str
) -> None:
    process = await app.run()
    os.kill((await greet(registry_folder)).pid, signal.SIGKILL)
    await seen(process, r"^not serving \(killed by SIGKILL\): waiting for a change$")
    app.write(('"one"', '"two"'))
    await seen(process, SERVING)
    assert (await greet(registry_folder)).message == "two"
    os.kill((await greet(registry_folder)).pid, signal.SIGKILL)
    await seen(process, r"^not serving")
    process.signal(signal.SIGINT)
    assert await ended(process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_both_cleanly(app: App, registry_folder: str, number: signal.Signals) -> None:
    process = await app.run()
    child = (await greet(registry_folder)).pid
    if number is signal.SIGINT:  # which a terminal sends to both
        os.kill(child, number)
    process.signal(number)
    assert await ended(process) == 0
    assert [line for line in process.stderr if "stopp" in line and "info" not in line] == ["stopping"]
    assert sum("SIGTERM received" in line for line in process.stderr) == 1
    assert "Traceback" not in "".join(process.stderr)
    await nobody_left(process)


async def test_an_interrupt_while_the_code_is_imported_stops_both_quietly(app: App) -> None:
    app.write(more="print('importing', flush=True)\ntime.sleep(60)\n")
    process = app.start()
    await seen(process, "^importing$")
    process.signal(signal.SIGINT)
    assert await ended(process) == 0
    assert [line for line in process.stderr if not line.startswith("watching ")] == ["stopping"]


async def test_a_second_signal_skips_the_waiting_and_is_the_exit_code(app: App) -> None:
    app.write(("stop_grace=0.2", "drain_delay=60"))
    process = await app.run()
    process.signal(signal.SIGTERM)
    await seen(process, "SIGTERM received, stopping")
    process.signal(signal.SIGINT)
    assert await ended(process) == 128 + signal.SIGINT
    assert "killed" not in "".join(process.stderr)


@pytest.mark.once  # three seconds pass before it is killed
async def test_a_process_that_hangs_in_its_stop_is_killed_after_the_grace(
    app: App, registry_folder: str
) -> None:
    hang = "@service.on_stop\ndef hang():\n    time.sleep(60)\n"
    app.write(more=hang)
    process = await app.run()
    old = (await greet(registry_folder)).pid
    app.write(('"one"', '"two"'), more=hang)
    await seen(process, "SIGTERM received")
    await nodes_left(registry_folder, 1)
    reply = await greet(registry_folder)
    assert reply.message == "two"
    process.signal(signal.SIGTERM)
    for pid in (old, reply.pid):
        await seen(process, rf"^process {pid} did not stop within 3\.2s: killed$")
    # How the last one ends counts: that was no clean stop.
    assert await ended(process) == 1
    await nobody_left(process)


@pytest.mark.parametrize("blocked", [False, pytest.param(True, marks=pytest.mark.once)])
async def test_nobody_is_left_when_the_supervisor_is_killed(
    app: App, registry_folder: str, blocked: bool
) -> None:
    if blocked:
        app.write(
            more="@service.on_stop\ndef hang():\n    print('hanging', flush=True)\n    time.sleep(60)\n"
        )
    process = await app.run()
    process.kill()
    await nodes_left(registry_folder, 0)
    await seen(process, "hanging" if blocked else "greeter has stopped")
    await nobody_left(process)


@pytest.mark.once
async def test_no_call_from_another_process_fails_across_reloads(app: App, registry_folder: str) -> None:
    process = await app.run()
    answers: dict[str, int] = {}
    stop = asyncio.Event()

    async def call(stub: GreeterStub) -> None:
        while not stop.is_set():
            reply = await stub.SayHello(pb.HelloRequest(name="x"))
            answers[reply.message] = answers.get(reply.message, 0) + 1

    async with Client(registry_address=registry_folder) as client:
        stub = GreeterStub(client.channel("greeter"))
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(call(stub))
            for word in ("two", "three"):
                app.write(('"one"', f'"{word}"'))
                await seen(process, "^reloading: ")
                await seen(process, "greeter has stopped")
            async with asyncio.timeout(10):
                while "three" not in answers:
                    await stub.SayHello(pb.HelloRequest(name="x"))
            stop.set()
    assert sorted(answers) == ["one", "three", "two"]


async def test_a_fixed_port_passes_from_one_process_to_the_next(app: App, registry_folder: str) -> None:
    process = app.start()
    port = (await seen(process, SERVING))[1]
    process.stop()
    # A call that does not end must not keep the port: only the process waits for it.
    app.write(("class Greeter:", STUCK), ("stop_grace=0.2", "stop_grace=60"))
    process = await app.run("--server-address", port)
    async with Client(registry_address=registry_folder) as client:
        stuck = GreeterStub(client.channel("greeter")).GreetAll(iter([pb.HelloRequest()]))
        await seen(process, "^called$")
        app.write(("import os", "import os ("))
        await seen(process, r"^not reloaded \(exit code 1\)")
        assert (await greet(registry_folder)).message == "one"
        app.write(('"one"', '"two"'))
        await seen(process, "SIGTERM received")
        assert (await seen(process, SERVING))[1] == port
        assert (await greet(registry_folder)).message == "two"
        assert not stuck.done()
        stuck.cancel()
    await seen(process, "greeter has stopped")


async def test_with_stop_first_two_never_run_at_a_time(app: App, registry_folder: str) -> None:
    lock = "import fcntl\nlock = open('lock', 'w')\nfcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    app.write(more=lock)
    process = await app.run()
    app.write(('"one"', '"two"'), more=lock)
    await seen(process, "^BlockingIOError")
    await seen(process, "^not reloaded")
    process.stop()
    process = await app.run("--reload-stop-first")
    app.write(more=lock)
    await seen(process, "greeter has stopped")
    await seen(process, SERVING)
    assert (await greet(registry_folder)).message == "one"


async def test_a_change_during_a_restart_is_not_lost(app: App, registry_folder: str) -> None:
    process = await app.run()
    app.write(('"one"', '"two"'), more=SLOW)
    await seen(process, "^importing$")
    app.write(('"one"', '"three"'))
    await seen(process, "^dismissed$")
    await seen(process, "greeter has stopped")
    assert (await greet(registry_folder)).message == "three"
    assert len(reloads(process)) == 2
    assert "not reloaded" not in "".join(process.stderr)


async def test_files_that_are_no_code_and_folders_of_tools_change_nothing(app: App, tmp_path: Path) -> None:
    more = tmp_path / "more"
    for folder in (more, app.folder / ".git", app.folder / "node_modules", app.folder / "sub"):
        folder.mkdir()
    process = await app.run("--reload-dir", str(more))
    for name in (".git/x.py", "node_modules/x.py", "data.json", "notes.txt", ".#server.py"):
        (app.folder / name).write_text("x")
    (more / "helper.py").write_text("x = 1")
    await seen(process, rf"^reloading: {more}/helper\.py changed$")
    await seen(process, "greeter has stopped")
    (app.folder / "sub" / "words.yaml").write_text("x: 1")
    await seen(process, r"^reloading: sub/words\.yaml changed$")
    assert len(reloads(process)) == 2


async def test_a_module_is_watched_from_its_outermost_package_on(app: App) -> None:
    inner = app.folder / "shop" / "web"
    inner.mkdir(parents=True)
    app.write(more="service.run()\n")  # one that runs itself is supervised as well
    app.file.rename(inner / "server.py")
    process = await app.run(target="shop.web.server:service")
    assert process.stderr[0] == f"watching {app.folder / 'shop'}"
    (app.folder / "other.py").write_text("")
    (app.folder / "shop" / "words.py").write_text("")
    await seen(process, r"^reloading: shop/words\.py changed$")
    await seen(process, "greeter has stopped")


async def test_the_program_sees_the_flags_it_sees_without_reload(app: App) -> None:
    app.write(more="import sys\nprint(__name__, sys.argv[1:], flush=True)\n")
    process = app._processes.pymicro(
        "run", "--log-level=debug", "--reload", "server.py", "--server-version", "7",
        cwd=app.folder, PYTHONPATH=str(ROOT / "examples" / "greeter"),
    )  # fmt: skip
    await seen(process, re.escape("server ['--log-level=debug', '--server-version', '7']"))
    await seen(process, "greeter 7 on")


async def test_the_program_shares_the_terminal_so_that_a_debugger_works(app: App) -> None:
    app.write(more="print('typed', input(), flush=True)\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pymicro", "run", "--reload", "server.py",
        cwd=app.folder,
        env={**app._processes.environment, "PYTHONPATH": str(ROOT / "examples" / "greeter")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"continue\n")
    assert await process.stdout.readline() == b"typed continue\n"
    process.terminate()
    assert await process.wait() == 0


async def test_its_flags_may_stand_after_the_target_and_the_rest_is_the_programs(
    app: App, tmp_path: Path
) -> None:
    app.write(more="import sys\nprint(__name__, sys.argv[1:], flush=True)\n")
    watched = tmp_path / "more"
    watched.mkdir()
    process = app._processes.pymicro(
        *("run", "server.py", "--server-version=7", "--reload", f"--reload-dir={watched}"),
        cwd=app.folder,
        PYTHONPATH=str(ROOT / "examples" / "greeter"),
    )
    await seen(process, re.escape(f"watching {app.folder}, {watched}"))
    await seen(process, re.escape("server ['--server-version=7']"))
    await seen(process, "greeter 7 on")
    process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait) == 0
    # After -- everything is the program's, which refuses what it does not know.
    refused = app._processes.pymicro(
        "run", "server.py", "--", "--reload", cwd=app.folder, PYTHONPATH=str(ROOT / "examples" / "greeter")
    )
    assert await asyncio.to_thread(refused.wait) == 2
    assert "server ['--reload']" in refused.stdout
    assert "greeter: unknown flag --reload" in refused.stderr
    without = app._processes.pymicro("run", "server.py", "--reload", "--reload-dir", cwd=app.folder)
    await seen(without, "pymicro run: --reload-dir needs a folder")
    assert await asyncio.to_thread(without.wait) == 2


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["--print-config", "server.py"], "server_name"),
        (["server.py", "--print-config"], "server_name"),
        (["server.py", "--help"], "greeter: a pymicro service."),
    ],
)
async def test_what_only_prints_is_not_supervised(
    app: App, processes: Processes, words: list[str], first: str
) -> None:
    path = str(ROOT / "examples" / "greeter")
    process = processes.pymicro("run", "--reload", *words, cwd=app.folder, PYTHONPATH=path)
    assert await ended(process) == 0
    assert process.stdout[0].startswith(first)
    assert process.stderr == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reload", "sever.py"], "there is no file sever.py; did you mean 'server.py'?"),
        (["--reload", "no.such"], "there is no module no, looking from "),
        (["--reload", "--reload-dir", "nowhere", "server.py"], "--reload-dir nowhere: there is no"),
        (["--reload-dir", ".", "server.py"], "--reload-dir and --reload-stop-first go with --reload"),
        (["--reload", "--log-level", "loud", "server.py"], "'loud' is none of debug, info, warning, error"),
    ],
)  # fmt: skip
async def test_what_no_change_of_files_could_mend_ends_at_once(
    app: App, processes: Processes, words: list[str], message: str
) -> None:
    process = processes.pymicro("run", *words, cwd=app.folder)
    assert await ended(process) == 2
    assert message in "\n".join(process.stderr)


async def test_without_watchfiles_the_extra_is_named(app: App, tmp_path: Path) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "watchfiles.py").write_text("raise ImportError('absent')\n")
    process = app.start(PYTHONPATH=str(tmp_path / "absent"))
    assert await ended(process) == 2
    assert process.stderr == ["pymicro run: --reload needs watchfiles: pip install 'pymicro-grpc[tools]'"]


async def test_in_a_pod_it_says_that_it_is_for_development(app: App) -> None:
    process = app.start("--server-address=127.0.0.1:0", KUBERNETES_SERVICE_HOST="10.0.0.1")
    await seen(process, "^--reload is for development: this is a pod of Kubernetes$")


async def test_files_that_cannot_be_watched_end_it(app: App, tmp_path: Path) -> None:
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind" / "watchfiles.py").write_text(
        "class DefaultFilter: ...\n"
        "async def awatch(*folders, watch_filter):\n"
        "    raise OSError('OS file watch limit reached')\n    yield\n"
    )
    process = app.start(PYTHONPATH=str(tmp_path / "blind"))
    await seen(process, "^files cannot be watched: OS file watch limit reached$")
    assert await ended(process) == 1
