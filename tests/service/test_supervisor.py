"""The supervisor by itself, with shorter pauses than the command line has."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_pb2_grpc import GreeterStub
from pymicro import Client
from pymicro.runtime.program import Program, Restarts
from tests.processes import Process, Processes, children, ended, nobody_left, seen, until
from tests.up_folder import free

DRIVER = """
import asyncio, json, sys
from pymicro.runtime.output import MergedLog
from pymicro.runtime.program import Program, Restarts
from pymicro.runtime.supervisor import Supervisor

async def main():
    programs = [
        Program(name=name, command=lambda _, words=words: words, speaks=False, grace=0.2)
        for name, words in json.loads(sys.argv[1]).items()
    ]
    async with MergedLog(1, ["up"]) as output:
        restarts = Restarts(initial=0.01, maximum=0.04, well=float(sys.argv[2]))
        say = lambda text: output.say("up", text)
        return await Supervisor(programs, restarts=restarts, output=output, say=say).run()

sys.exit(asyncio.run(main()))
"""


def supervise(processes: Processes, well: float = 60, **programs: str) -> Process:
    """Programs in Python under a supervisor of their own."""
    words = {name: [sys.executable, "-c", text] for name, text in programs.items()}
    return processes.python("-c", DRIVER, json.dumps(words), str(well))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""  # it has just gone


def test_pauses_double_up_to_the_most() -> None:
    backoff = Restarts().backoff()
    assert [backoff.next() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next() == 1


def test_replicas_have_numbers_if_there_are_several() -> None:
    program = Program(name="a", command=lambda _: [])
    assert program.labels() == ["a"]
    assert Program(name="a", command=lambda _: [], replicas=3).labels() == ["a.1", "a.2", "a.3"]


async def test_the_pause_grows_with_each_crash(processes: Processes) -> None:
    process = supervise(processes, a="raise SystemExit(3)")
    for pause in ("10ms", "20ms", "40ms", "40ms"):
        await seen(process, rf"^up \| a: exit code 3; next try in {pause}$")
    process.signal(signal.SIGTERM)
    await ended(process)


async def test_after_it_ran_well_the_next_crash_counts_as_the_first(processes: Processes) -> None:
    process = supervise(processes, well=0, a="import os; os.kill(os.getpid(), 9)")
    for _ in range(4):
        await seen(process, r"^up \| a: killed by SIGKILL; next try in 10ms$")
    process.signal(signal.SIGTERM)
    await ended(process)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_signals_are_heard_between_the_starts_of_many(processes: Processes) -> None:
    process = supervise(processes, **{f"a{number}": "import time; time.sleep(600)" for number in range(60)})
    await until(lambda: len(children(process.pid)) > 1)
    process.signal(signal.SIGTERM)
    assert await ended(process) == 0
    await nobody_left(process)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("program_starts", [True, False])
async def test_a_guard_that_somebody_kills_comes_again(
    processes: Processes, tmp_path: Path, program_starts: bool
) -> None:
    lock = tmp_path / "lock"
    holding = (
        "import fcntl, time\n"
        f"file = open({str(lock)!r}, 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('holding', flush=True)\ntime.sleep(600)\n"
    )
    process = supervise(processes, a=holding)
    await seen(process, "holding")

    def named(text: str) -> list[int]:
        return [pid for pid in children(process.pid) if text in command_line(pid)]

    (guard,) = named("guard_process")
    if not program_starts:
        # One that is killed as soon as it has begun waits for the next program.
        begun = time.monotonic()
        await until(lambda: time.monotonic() - begun > 1.1)
    os.kill(guard, signal.SIGTERM)  # it does not heed this, since a whole system that stops sends it
    os.kill(guard, signal.SIGKILL)
    if program_starts:
        os.kill(named("holding")[0], signal.SIGKILL)
        await seen(process, "holding")
    await until(lambda: set(named("guard_process")) - {guard})
    process.kill()
    await until(lambda: free(lock))
    await nobody_left(process)


async def test_a_process_that_left_its_group_is_not_waited_for(processes: Processes) -> None:
    """It has become a daemon on purpose; it holds the pipe of the one that started it."""
    daemon = (
        "import os, time\n"
        "ours, theirs = os.pipe()\n"
        "if os.fork():\n    os.read(ours, 1)\n    os._exit(0)\n"
        "os.setsid()\nprint('daemon', os.getpid(), flush=True)\nos.write(theirs, b'.')\ntime.sleep(600)\n"
    )
    process = supervise(processes, a=daemon)
    pid = int((await seen(process, r"daemon (\d+)"))[1])
    try:
        await seen(process, r"^up \| a: has ended$")
        assert await ended(process) == 0
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_what_is_left_in_a_group_gets_time_to_clean_up(processes: Processes, tmp_path: Path) -> None:
    done = tmp_path / "done"
    child = (
        "import signal, sys, time, pathlib\n"
        f"def clean(*_):\n    pathlib.Path({str(done)!r}).touch()\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, clean)\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
    )
    process = supervise(processes, a=parent)
    assert await ended(process) == 0
    assert done.exists()


WORKERS = """
import asyncio, sys
from pymicro.runtime.program import Program, Restarts
from pymicro.runtime.supervisor import Supervisor

def command(descriptor):
    run = [sys.executable, "-m", "pymicro", "run", f"--supervised={descriptor}"]
    return [*run, "examples/greeter/server.py"]

async def main():
    program = Program(name="worker", command=command, replicas=2)
    restarts = Restarts(initial=0.01)
    return await Supervisor([program], restarts=restarts, say=lambda text: print(text, flush=True)).run()

sys.exit(asyncio.run(main()))
"""


async def test_equal_processes_may_share_the_terminal_and_be_kept_running(
    processes: Processes, registry_folder: str
) -> None:
    process = processes.python("-c", WORKERS)
    for _ in range(2):
        await seen(process, r"greeter 1\.0\.0 on 127")
    async with Client(registry_address=registry_folder) as client:
        pid = (await GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="x"))).pid
    os.kill(pid, signal.SIGKILL)
    await seen(process, r"^worker\.[12]: killed by SIGKILL; next try in 10ms$")
    await seen(process, r"greeter 1\.0\.0 on 127")
    process.signal(signal.SIGTERM)
    assert await ended(process) == 0
    await nobody_left(process)


async def test_a_system_that_starts_no_more_processes_is_asked_again(processes: Processes) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
    programs = {"a": [sys.executable, "-c", ""], **{f"b{number}": ["sleep", "600"] for number in range(4)}}
    process = processes.python("-c", limited + DRIVER, json.dumps(programs), "60")
    await seen(process, r"^up +\| b\d: cannot be started: Too many open files; next try in \d+ms$")
    await seen(process, r"^up +\| b\d: cannot be started: Too many open files; next try in 40ms$")
    process.signal(signal.SIGTERM)
    assert await ended(process) == 1
    await nobody_left(process)
