"""A client that calls the greeter at a steady rate and keeps account: a program that tests run in pods.

    python load.py --rate 100 --streams 2

Calls start at their times whether or not earlier ones have ended. Of five, the first is GreetAll, whose
requests take 250 to 400 ms, so that its handler runs as long; with `--patient` one call of a hundred takes
6 to 8 s, longer than a server waits before it stops. Chats stay open until the server says that it has to
go, and are then opened anew.

Each second, and at the end (SIGTERM: no new calls, those in flight finish), it prints what has happened
since the last line as a JSON object; tally.py adds them up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

# Seconds. A call that took longer than LONG counts as long, whichever it was.
LONG = 0.2
TIMEOUT = 5.0
# How long the requests of a GreetAll take, and of a patient one.
LONG_CALLS = (0.25, 0.4)
PATIENT_CALLS = (6.0, 8.0)
# Between the lines of a chat.
PAUSE = 0.5
FAREWELL = "I have to go, good-bye"


@dataclass
class Report:
    """What happened since the last one; times are those of `time.time()`.

    Attributes:
        nodes: Answered calls by the address of the node.
        long: Those that took longer than `LONG`.
        failures: Of calls: when it began, when it ended, the node, the status, the text.
        gap: Longest time between two answers, in seconds, the present one included.
        chats: Streams by how they ended: `opened`, `drained`, `broken`.
        taken: How often it took a certificate, since its start.
        handshakes: Connections over TLS that it made, since its start.
        done: Whether this is the last one.
    """

    time: float = 0.0
    nodes: Counter[str] = field(default_factory=Counter)
    long: int = 0
    failures: list[tuple[float, float, str, str, str]] = field(default_factory=list)
    gap: float = 0.0
    chats: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    handshakes: int = 0
    done: bool = False


class Load:
    """The calls and the account of them."""

    def __init__(self, client: pymicro.Client, rate: float, *, patient: bool) -> None:
        self._stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        self._identity = client.identity
        self._rate = rate
        self._patient = patient
        self._report = Report()
        self._last_answer: float | None = None
        self._measuring = True

    async def make_calls(self, stopping: asyncio.Event) -> None:
        """Start calls until told to stop, then wait for those in flight."""
        loop = asyncio.get_running_loop()
        begun, number = loop.time(), 0
        async with asyncio.TaskGroup() as calls:
            while not stopping.is_set():
                calls.create_task(self._call(self._length(number)))
                number += 1
                await asyncio.sleep(begun + number / self._rate - loop.time())
            # What comes now are answers to the calls in flight only; pauses between them say nothing.
            self._see_gap(time.time())
            self._last_answer, self._measuring = None, False

    def _length(self, number: int) -> float:
        """How long the requests of a call take, in seconds."""
        if self._patient and number % 100 == 0:
            return random.uniform(*PATIENT_CALLS)
        return random.uniform(*LONG_CALLS) if number % 5 == 0 else 0.0

    async def _call(self, length: float) -> None:
        start = time.time()
        try:
            if length:
                reply = await self._stub.GreetAll(slowly(length), timeout=length + TIMEOUT)
            else:
                reply = await self._stub.SayHello(pb.HelloRequest(name="Ada"), timeout=TIMEOUT)
        except pymicro.RpcError as exc:
            node = "" if exc.node is None else exc.node.address
            failure = (start, time.time(), node, exc.code().name, str(exc.details()))
            self._report.failures.append(failure)
        else:
            now = time.time()
            self._report.nodes[reply.address] += 1
            self._report.long += now - start > LONG
            if self._measuring:
                self._see_gap(now)
                self._last_answer = now

    async def chat(self) -> None:
        """Hold a chat with some node, and another when that is over, for ever."""
        while True:
            self._report.chats["opened"] += 1
            drained = False
            try:
                async for line in self._stub.Chat(chatter()):
                    drained = line.text == FAREWELL
            except pymicro.RpcError as exc:
                print(json.dumps({"chat": str(exc)}), flush=True)
            self._report.chats["drained" if drained else "broken"] += 1
            await asyncio.sleep(0.1)

    async def report(self) -> None:
        """A line each second, for ever."""
        while True:
            await asyncio.sleep(1.0)
            self.print_report(done=False)

    def print_report(self, *, done: bool) -> None:
        """One line, and a new account."""
        self._report.time = time.time()
        self._report.done = done
        if self._identity is not None:
            self._report.taken = self._identity.taken
            self._report.handshakes = self._identity.called["ok"]
        self._see_gap(self._report.time)
        print(json.dumps(vars(self._report)), flush=True)
        self._report = Report()

    def _see_gap(self, now: float) -> None:
        if self._last_answer is not None:
            self._report.gap = max(self._report.gap, now - self._last_answer)


async def slowly(length: float) -> AsyncIterator[pb.HelloRequest]:
    """Two people, some seconds apart."""
    yield pb.HelloRequest(name="Ada")
    await asyncio.sleep(length)
    yield pb.HelloRequest(name="Grace")


async def chatter() -> AsyncIterator[pb.ChatMessage]:
    """Somebody who always has something to say."""
    while True:
        yield pb.ChatMessage(text="and another thing")
        await asyncio.sleep(PAUSE)


async def main(rate: float, streams: int, *, patient: bool) -> None:
    """Call until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with pymicro.Client(argv=[]) as client:
        load = Load(client, rate, patient=patient)
        # The servers may not be there yet; that is no failure of theirs.
        async with contextlib.aclosing(client.watch_nodes("greeter")) as found:
            async for nodes in found:
                if nodes:
                    break
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(load.report(), name="report")]
            helpers += [group.create_task(load.chat(), name=f"chat {number}") for number in range(streams)]
            await load.make_calls(stopping)
            for task in helpers:
                task.cancel()
        load.print_report(done=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second")
    parser.add_argument("--streams", type=int, default=0, help="chats held open")
    parser.add_argument("--patient", action="store_true", help="let one call of a hundred take 6 to 8 s")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rate, arguments.streams, patient=arguments.patient))
