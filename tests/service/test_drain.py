"""Nodes that stop under a steady load: every call is answered, and ran once, with no retry to help.

Three services stop one after the other, each followed by its successor, while
short, long and streaming calls go on. The client does not retry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, MemoryRegistry, Service, handler
from tests.processes import Process, Processes
from tests.serving.serving import eventually

NODES = 3
LISTENS = r"greeter .* on (127\.0\.0\.1:\d+), registered"

APP = """
import asyncio, os
from pymicro import CallContext, Service, handler
from greeter.v1 import greeter_pb2 as pb

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        print("ran", request.name, flush=True)
        if request.name.startswith("long"):
            await asyncio.sleep(1.5)
        return pb.HelloReply(message=request.name, pid=os.getpid())

    @handler
    async def greet_all(self, requests) -> pb.HelloReply:
        name = ""
        async for request in requests:
            name = request.name
        print("ran", name, flush=True)
        return pb.HelloReply(message=name, pid=os.getpid())

    @handler
    async def count_down(self, request: pb.CountDownRequest, context: CallContext):
        yield pb.CountDownReply(number=1)
        await context.draining.wait()
        yield pb.CountDownReply(number=0)

    @handler
    async def chat(self, requests):
        async for request in requests:
            yield request

service = Service("greeter")
service.add(Greeter(), pb)
if __name__ == "__main__":
    service.init()
    service.run()
"""


@dataclass
class Tally:
    """Every call that was sent, and what became of it.

    Attributes:
        answered: Names of calls that were answered, as often as they were.
        failed: What the others ended with.
        nodes: The processes, or services, that answered.
    """

    sent: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    nodes: Counter[int] = field(default_factory=Counter)

    def name(self, kind: str) -> str:
        name = f"{kind}-{len(self.sent)}"
        self.sent.append(name)
        return name

    async def note(self, name: str, answer: Awaitable[Any]) -> None:
        try:
            reply = await answer
        except Exception as exc:
            self.failed.append(f"{name}: {exc!r}")
            return
        assert reply.message == name
        self.answered[name] += 1
        self.nodes[reply.pid] += 1

    async def grows(self, by: int) -> None:
        """So many more calls are answered."""
        wanted = self.answered.total() + by
        await eventually(lambda: self.answered.total() >= wanted, "the load goes on", timeout=30)

    def check(self, ran: Counter[str]) -> None:
        assert self.failed == []
        assert self.answered == Counter(self.sent)
        assert ran == self.answered


class Load:
    """Callers of every kind, at work until they are told to stop.

    Attributes:
        tally: Of the calls with an end.
        goodbyes: Streams that were told politely that their node leaves.
        broken: Streams that ended otherwise.
        echoed: Messages of the streams that go back and forth.
    """

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._over = False
        self.tally = Tally()
        self.goodbyes = 0
        self.broken: list[str] = []
        self.echoed = 0

    async def short(self) -> None:
        while not self._over:
            name = self.tally.name("short")
            await self.tally.note(name, self._stub.SayHello(pb.HelloRequest(name=name), timeout=30))

    async def long(self) -> None:
        while not self._over:
            name = self.tally.name("long")
            await self.tally.note(name, self._stub.SayHello(pb.HelloRequest(name=name), timeout=30))

    async def uploading(self) -> None:
        while not self._over:
            name = self.tally.name("upload")
            requests = (pb.HelloRequest(name=word) for word in ("a", "b", name))
            await self.tally.note(name, self._stub.GreetAll(requests, timeout=30))

    async def watching(self) -> None:
        """Streams without an end of their own: each is told that its node leaves."""
        while not self._over:
            call = self._stub.CountDown(pb.CountDownRequest())
            try:
                numbers = [reply.number async for reply in call]
            except Exception as exc:
                self.broken.append(repr(exc))
                return
            if numbers == [1, 0]:
                self.goodbyes += 1
            else:
                self.broken.append(str(numbers))

    async def chatting(self) -> None:
        """Streams that run out: some messages to and fro."""
        while not self._over:
            call = self._stub.Chat(timeout=30)
            try:
                for number in range(20):
                    await call.write(pb.ChatMessage(text=str(number)))
                    assert (await call.read()).text == str(number)
                    self.echoed += 1
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            except Exception as exc:
                self.broken.append(repr(exc))
                return

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        callers = [self.short] * 4 + [self.long] * 4 + [self.uploading, self.chatting, self.chatting]
        tasks = [asyncio.create_task(caller()) for caller in callers]
        watches = [asyncio.create_task(self.watching()) for _ in range(NODES)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.wait(tasks)
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
        for task in tasks:
            task.result()


def ran(processes: list[Process]) -> Counter[str]:
    """What the handlers of these processes have printed that they do."""
    lines = [line for process in processes for line in process.stdout]
    return Counter(line.removeprefix("ran ") for line in lines if line.startswith("ran "))


@pytest.mark.parametrize("flags", [(), ("--drain-delay", "500ms")], ids=["no-delay", "drain-delay"])
async def test_processes_that_are_replaced_under_load_fail_no_call(
    processes: Processes, registry_folder: str, tmp_path: Any, flags: tuple[str, ...]
) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)

    async def start() -> Process:
        process = processes.python(str(app), *flags, PYTHONPATH="examples/greeter")
        await asyncio.to_thread(process.wait_for, LISTENS)
        return process

    running = [await start() for _ in range(NODES)]
    everybody = list(running)
    async with Client(registry="local", registry_address=registry_folder, client_retries=0) as client:
        load = Load(rpc.GreeterStub(client.channel("greeter")))
        tally = load.tally
        async with load.at_work():
            for _ in range(NODES):
                old = running.pop(0)
                new = await start()
                everybody.append(new)
                running.append(new)
                for process in (old, new):
                    known = tally.nodes[process.pid]
                    await eventually(
                        lambda known=known, pid=process.pid: tally.nodes[pid] > known + 20,  # type: ignore[misc]
                        "it is in use",
                        timeout=30,
                    )
                assert await asyncio.to_thread(old.stop) == 0, old.report()
                await tally.grows(50)
    tally.check(ran(everybody))
    assert load.broken == []
    assert load.goodbyes >= NODES
    assert load.echoed > 100
    assert any(name.startswith("long") for name in tally.answered)


class Counting:
    """The same inside this process; `number` stands in for a process."""

    def __init__(self, number: int, ran: Counter[str]) -> None:
        self.number = number
        self.ran = ran

    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        self.ran[request.name] += 1
        if request.name.startswith("long"):
            await asyncio.sleep(0.3)
        return pb.HelloReply(message=request.name, pid=self.number)

    @handler
    async def greet_all(self, requests: AsyncIterator[pb.HelloRequest]) -> pb.HelloReply:
        names = [request.name async for request in requests]
        self.ran[names[-1]] += 1
        return pb.HelloReply(message=names[-1], pid=self.number)

    @handler
    async def count_down(
        self, request: pb.CountDownRequest, context: CallContext
    ) -> AsyncIterator[pb.CountDownReply]:
        yield pb.CountDownReply(number=1)
        await context.draining.wait()
        yield pb.CountDownReply(number=0)

    @handler
    async def chat(self, requests: AsyncIterator[pb.ChatMessage]) -> AsyncIterator[pb.ChatMessage]:
        async for request in requests:
            yield request


async def test_services_in_one_process_that_are_replaced_under_load_fail_no_call() -> None:
    registry = MemoryRegistry()
    executed: Counter[str] = Counter()
    numbers = iter(range(1, 100))

    async def start() -> tuple[int, Service]:
        number = next(numbers)
        # On a busy machine a call may be on its way for longer than nobody has to call for.
        service = Service("greeter", registry=registry, drain_delay=0.2)
        service.add(Counting(number, executed), pb)
        return number, await service.__aenter__()

    running = [await start() for _ in range(NODES)]
    try:
        async with Client(registry=registry, client_retries=0) as client:
            load = Load(rpc.GreeterStub(client.channel("greeter")))
            tally = load.tally
            async with load.at_work():
                for _ in range(NODES * 2):
                    old, leaving = running.pop(0)
                    new, service = await start()
                    running.append((new, service))
                    known = tally.nodes[old]
                    await eventually(
                        lambda old=old, new=new, known=known: (  # type: ignore[misc]
                            tally.nodes[old] > known + 10 and tally.nodes[new] > 10
                        ),
                        "both are in use",
                        timeout=30,
                    )
                    await leaving.__aexit__(None, None, None)
                    await tally.grows(20)
    finally:
        for _, service in running:
            await service.__aexit__(None, None, None)
    tally.check(executed)
    assert load.broken == []
    assert load.goodbyes >= NODES
