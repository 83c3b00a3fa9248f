"""Three greeters, a client that knows only their name, a crash, a newcomer, a clean stop.

    make demo

Exits 1 if a node answered nothing, or if a call failed other than in the first
second after the crash. The greeters are processes, started as anyone would start
them; only their registry folder is private, so that no other greeter of yours
takes part.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

SERVER = Path(__file__).with_name("server.py")
CALLERS = 4  # calls at a time
PAUSE = 0.01  # seconds each caller waits after a call
PATIENCE = 30.0  # seconds a greeter may take to start, on a slow machine
FORGIVEN = 1.0  # seconds after the crash in which calls may fail


class Failed(Exception):
    """The demo did not show what it should; the text says what was seen."""


@dataclass
class Greeter:
    """One greeter process."""

    process: asyncio.subprocess.Process
    log: Path
    killed: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


@dataclass
class Tally:
    """What the calls of one act came to; who answered is known from the replies alone."""

    answered: Counter[tuple[int, str]] = field(default_factory=Counter)
    failures: list[tuple[float, pymicro.RpcError]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Calls that ended, well or not."""
        return self.answered.total() + len(self.failures)

    def pids(self) -> set[int]:
        """The processes that answered."""
        return {pid for pid, _ in self.answered}

    def answered_by(self, greeters: Sequence[Greeter]) -> bool:
        """Whether each of them has answered."""
        return self.pids() >= {greeter.pid for greeter in greeters}

    def show(self) -> None:
        """One line for each node that answered, with its share as a bar."""
        most = max(self.answered.values(), default=1)
        for (pid, address), count in sorted(self.answered.items()):
            print(f"   pid {pid:<7}  {address:<16}  {count:>4} replies  {'█' * round(20 * count / most)}")

    def check(self, greeters: Sequence[Greeter]) -> None:
        """Each of `greeters` answered, nobody else did, and no call failed."""
        expected = {greeter.pid for greeter in greeters}
        if self.pids() != expected:
            raise Failed(f"pids {sorted(expected)} should have answered, {sorted(self.pids())} did")
        if self.failures:
            raise Failed(f"{len(self.failures)} calls failed, the first with {self.failures[0][1]}")


class Demo:
    """The processes, the client and its calls; one method for each act."""

    def __init__(self, folder: Path, client: pymicro.Client) -> None:
        self.folder = folder
        self.client = client
        self.greeters: list[Greeter] = []
        self.nodes: list[str] = []
        self.admin = ""
        self.tally = Tally()
        self.background: list[asyncio.Task[None]] = []

    async def play(self) -> None:
        """All acts in their order."""
        trio = await self.three_greeters_start()
        await self.a_client_calls_them_in_turn(trio)
        survivors = await self.one_is_killed(trio)
        await self.a_fourth_takes_its_share(survivors)
        await self.clean_stop()

    async def three_greeters_start(self) -> list[Greeter]:
        """Act 1."""
        print("\n1. Three greeters start, each a process of its own")
        trio = [await self.start_greeter() for _ in range(3)]
        self.background.append(asyncio.create_task(self.follow(), name="follow"))
        seconds = await self.until("the client finds three nodes", lambda: len(self.nodes) == 3)
        print(f"   pids {', '.join(str(greeter.pid) for greeter in trio)}: all ready after {seconds:.1f} s")
        print(f"   one of them tells how it fares on http://{self.admin}: /nodes, /stats, /metrics")
        return trio

    async def a_client_calls_them_in_turn(self, trio: list[Greeter]) -> None:
        """Act 2."""
        print('\n2. A client calls "greeter": the name is all that it is given')
        stub = greeter_pb2_grpc.GreeterStub(self.client.channel("greeter"))
        self.background += [asyncio.create_task(self.call(stub), name="caller") for _ in range(CALLERS)]
        await self.until("all three answer", lambda: len(self.tally.pids()) == 3)
        tally = await self.act(1.5, trio)
        tally.show()
        tally.check(trio)
        print(f"   {tally.total} calls, spread over all three, none failed")

    async def one_is_killed(self, trio: list[Greeter]) -> list[Greeter]:
        """Act 3."""
        victim, *survivors = trio
        print(f"\n3. kill -9 {victim.pid}, while calls go on")
        self.tally = Tally()
        crash = time.monotonic()
        victim.killed = True
        victim.process.kill()
        seconds = await self.until("the client drops the dead node", lambda: len(self.nodes) == 2)
        print(f"   the client dropped the dead node after {seconds:.2f} s")
        await asyncio.sleep(crash + FORGIVEN - time.monotonic())
        direct = self.tally
        tally = await self.act(1.5)
        tally.show()
        tally.check(survivors)
        if direct.failures:
            moment, exc = direct.failures[-1]
            print(
                f"   {direct.total + tally.total} calls; {len(direct.failures)} failed, the last of them"
                f" {moment - crash:.2f} s after the kill ({exc.code().name})"
            )
        else:
            print(f"   {direct.total + tally.total} calls, none failed")
        return survivors

    async def a_fourth_takes_its_share(self, survivors: list[Greeter]) -> None:
        """Act 4."""
        print("\n4. A fourth greeter starts")
        self.tally = waiting = Tally()
        fourth = await self.start_greeter()
        seconds = await self.until("the fourth answers", lambda: fourth.pid in self.tally.pids())
        print(f"   pid {fourth.pid} answers its first call {seconds:.1f} s after its start")
        await self.until("all answer", lambda: waiting.answered_by([*survivors, fourth]))
        tally = await self.act(1.5, [*survivors, fourth])
        tally.show()
        waiting.check([*survivors, fourth])
        tally.check([*survivors, fourth])
        print(f"   {waiting.total + tally.total} calls, none failed")

    async def clean_stop(self) -> None:
        """Act 5."""
        print("\n5. A clean stop: SIGTERM to each")
        for task in self.background:
            task.cancel()
        await asyncio.wait(self.background)
        left = [greeter for greeter in self.greeters if greeter.process.returncode is None]
        start = time.monotonic()
        for greeter in left:
            greeter.process.terminate()
        for greeter in left:
            code = await asyncio.wait_for(greeter.process.wait(), 10)
            print(f"   pid {greeter.pid:<7}  exit code {code} after {time.monotonic() - start:.2f} s")
            if code != 0:
                raise Failed(f"greeter pid {greeter.pid} exited with {code} after SIGTERM, not with 0")

    async def start_greeter(self) -> Greeter:
        """Start `python -m pymicro run server.py`; not waited for."""
        log = self.folder / f"greeter-{len(self.greeters) + 1}.log"
        with open(log, "wb") as output:  # noqa: ASYNC230 – a small local file, once
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pymicro", "run", str(SERVER)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the demo, which then ends the greeters itself.
                start_new_session=True,
            )
        self.greeters.append(Greeter(process, log))
        return self.greeters[-1]

    async def follow(self) -> None:
        """Keep `nodes` as the client sees them."""
        async for found in self.client.watch_nodes("greeter"):
            self.nodes = [node.address for node in found]
            for node in found:
                host = node.address.rpartition(":")[0]
                self.admin = f"{host}:{node.metadata['admin-port']}"

    async def call(self, stub: greeter_pb2_grpc.GreeterStub) -> None:
        """Greet for ever, and keep account."""
        while True:
            try:
                reply = await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=2)
            except pymicro.RpcError as exc:
                self.tally.failures.append((time.monotonic(), exc))
            else:
                self.tally.answered[reply.pid, reply.address] += 1
            await asyncio.sleep(PAUSE)

    async def act(self, seconds: float, greeters: Sequence[Greeter] = ()) -> Tally:
        """Let the calls go on for some time, and until each of `greeters` has answered; what they came to."""
        self.tally = tally = Tally()
        await asyncio.sleep(seconds)
        # A process that a busy machine gave no CPU is slow, and callers leave it alone for a while.
        await self.until("each of them answers", lambda: tally.answered_by(greeters))
        self.tally = Tally()
        return tally

    async def until(self, what: str, condition: Callable[[], bool]) -> float:
        """Wait for `condition`; the seconds it took."""
        start = time.monotonic()
        while not condition():
            for greeter in self.greeters:
                if greeter.process.returncode is not None and not greeter.killed:
                    raise Failed(f"greeter pid {greeter.pid} exited with {greeter.process.returncode}")
            for task in self.background:
                if task.done():
                    task.result()  # raises: neither ends by itself
            if time.monotonic() - start > PATIENCE:
                raise Failed(f"{what}: not within {PATIENCE:g} s (nodes: {', '.join(self.nodes) or 'none'})")
            await asyncio.sleep(0.01)
        return time.monotonic() - start

    async def end(self) -> None:
        """End what is still there, however the demo went."""
        for task in self.background:
            task.cancel()
        for greeter in self.greeters:
            if greeter.process.returncode is None:
                greeter.process.kill()
                await greeter.process.wait()

    def logs(self) -> str:
        """The last lines that each greeter wrote."""
        parts = []
        for greeter in self.greeters:
            lines = greeter.log.read_text(errors="replace").splitlines()[-20:]
            parts.append("\n    ".join([f"greeter pid {greeter.pid} wrote:", *lines]))
        return "\n".join(parts)


async def main(folder: Path) -> int:
    """Play the demo; 0 if all was as it should be."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    start = time.monotonic()
    async with pymicro.Client() as client:
        demo = Demo(folder, client)
        try:
            await demo.play()
        except Failed as exc:
            print(f"\nFAILED: {exc}\n\n{demo.logs()}", file=sys.stderr)
            return 1
        finally:
            await demo.end()
    print(f"\nAll as it should be, in {time.monotonic() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pymicro-demo-") as name:
        registry = Path(name, "registry")
        registry.mkdir(mode=0o700)
        # A fresh machine's environment, whatever the user has set, but for the
        # folder in which nodes are found.
        for variable in [variable for variable in os.environ if variable.startswith("MICRO_")]:
            del os.environ[variable]
        os.environ["MICRO_REGISTRY_ADDRESS"] = str(registry)
        print(f"pymicro {pymicro.__version__}, registry local in {registry} (the demo's own)")
        try:
            code = asyncio.run(main(Path(name)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            code = 130
    sys.exit(code)
