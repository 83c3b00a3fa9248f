"""A working folder in which tests start `pymicro up`, and what they ask of it."""

from __future__ import annotations

import fcntl
import os
import re
import sys
from contextlib import aclosing
from pathlib import Path

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_pb2_grpc import GreeterStub
from pymicro import Client
from tests.processes import ROOT, Process, Processes, ended

APP = """
import os, sys
from greeter.v1 import greeter_pb2 as pb
from pymicro import Service, handler

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply(message="one", pid=os.getpid())

service = Service("greeter", stop_grace=0.2)
service.add(Greeter(), pb, partial=True)
"""
SERVING = r"^greeter(\.\d)? +\| .* greeter latest on (127\.0\.0\.1:\d+)"
# Holds a lock for as long as it lives, and does not stop when it is asked to.
STUBBORN = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("holding", os.getpid(), flush=True)
while True:
    time.sleep(600)
"""
# Starts such a one, then does what its arguments say.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "stubborn.py", sys.argv[1]], stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), flush=True)
if sys.argv[2] == "leave":
    sys.exit(int(sys.argv[3]))
time.sleep(600)
"""


class Folder:
    """A working folder with a `pymicro.toml`."""

    def __init__(self, path: Path, processes: Processes) -> None:
        self.path = path
        self.processes = processes
        self.write("server.py", APP)
        self.write("stubborn.py", STUBBORN)
        self.write("parent.py", PARENT)
        self.environment = {
            "PYTHONPATH": str(ROOT / "examples" / "greeter"),
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHON": sys.executable,
        }

    def write(self, name: str, text: str) -> Path:
        """A file, as editors save it: another one under the name."""
        path = self.path / name
        saved = path.with_name(f"{path.name}.saved")
        saved.write_text(text.replace("PYTHON", sys.executable))
        saved.chmod(0o644)
        # Python takes a cached module for current whose source has this second and size.
        os.utime(saved, (1_000_000_000, 1_000_000_000))
        saved.replace(path)
        return path

    def up(self, text: str, *flags: str, **env: str) -> Process:
        """Start `pymicro up` with a `pymicro.toml` of this text."""
        self.write("pymicro.toml", text)
        return self.processes.pymicro("up", *flags, cwd=self.path, **{**self.environment, **env})

    async def refused(self, text: str, *flags: str, **env: str) -> str:
        """The one line with which `pymicro up` refuses."""
        process = self.up(text, *flags, **env)
        assert await ended(process) == 2, process.report()
        assert process.stdout == []
        (line,) = process.stderr
        return line.removeprefix("pymicro up: ")


GREETER = '[services.greeter]\nrun = "server.py"\n'
TWO = f"{GREETER}replicas = 2\n"


async def greet(registry_folder: str) -> pb.HelloReply:
    """The answer to one call of whoever is found."""
    async with Client(registry_address=registry_folder) as client:
        return await GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="x"))


async def nodes(registry_folder: str, count: int) -> None:
    """Return when the registry lists so many."""
    async with (
        Client(registry_address=registry_folder) as client,
        aclosing(client.watch_nodes("greeter")) as sets,
    ):
        async for found in sets:
            if len(found) == count:
                return


def free(lock: Path) -> bool:
    """Whether nobody holds the lock: its process is gone, though perhaps nobody has waited for it."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def own(process: Process) -> list[str]:
    """What `up` itself said."""
    return [line.partition("| ")[2] for line in process.stdout if re.match(r"up +\| ", line)]


def lines(process: Process, name: str) -> list[str]:
    """What one program printed."""
    return [
        line.partition("|")[2].removeprefix(" ")
        for line in process.stdout
        if line.split("|")[0].strip() == name
    ]
