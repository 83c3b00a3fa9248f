"""Deadlines and cancellation from end to end: three services deep, over real sockets.

`front` calls `middle`, which calls `back`, whose handlers wait until they are cancelled
or let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, MemoryRegistry, Service, handler
from tests.serving.serving import eventually

# grpc writes a timeout below a second in milliseconds, rounded up, and a longer one in hundredths.
ROUNDED = 0.002
ROUNDED_ABOVE_A_SECOND = 0.011
# How long each hop works before it calls on.
WORK = 0.03
# Enough for three hops on a busy machine, and less than the default timeout.
AMPLE = 4.0
HOPS = ("front", "middle", "back")

Style = Callable[["Hop", pb.HelloRequest], Awaitable[Any]]


@dataclass
class Hop:
    """One service: what it saw of calls, and how it calls on.

    Attributes:
        onward: A stub of the next one; None at the end.
        style: How it calls on.
        remaining: What each call had left when its handler began.
        began: Set when a handler has begun.
        ended: How handlers ended: `returned`, or the exception's name.
        passed: Set when a response has been written. Who is cancelled while it is sees a GeneratorExit.
        go: Lets the last one answer.
    """

    name: str
    onward: Any = None
    style: Style | None = None
    remaining: list[float | None] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    passed: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    spawned: list[asyncio.Task[Any]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def _noted(self, context: CallContext) -> AsyncIterator[None]:
        left = context.time_remaining()
        self.remaining.append(left)
        self.began.set()
        try:
            if left is not None:  # the work: until so much time is gone
                await eventually(lambda: (context.time_remaining() or 0) <= left - WORK, "the work is done")
            yield
            self.ended.append("returned")
        except BaseException as exc:
            self.ended.append(type(exc).__name__)
            raise
        finally:
            self.over.set()

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        async with self._noted(context):
            if self.onward is None:
                await self.go.wait()
            elif self.style is not None:
                await self.style(self, request)
            else:
                await self.onward.SayHello(request)
            return pb.HelloReply(message=self.name)

    @handler
    async def count_down(
        self, request: pb.CountDownRequest, context: CallContext
    ) -> AsyncIterator[pb.CountDownReply]:
        async with self._noted(context):
            if self.onward is None:
                yield pb.CountDownReply(number=1)
                self.passed.set()
                await self.go.wait()
            else:
                async for reply in self.onward.CountDown(request):
                    yield reply
                    self.passed.set()

    @handler
    async def greet_all(self, requests: Any, context: CallContext) -> pb.HelloReply:
        async with self._noted(context):
            if self.onward is None:
                async for _ in requests:
                    pass
                await self.go.wait()
            else:
                await self.onward.GreetAll(requests)
            return pb.HelloReply()

    @handler
    async def chat(self, requests: Any, context: CallContext) -> AsyncIterator[pb.ChatMessage]:
        async with self._noted(context):
            if self.onward is None:
                async for request in requests:
                    yield request
            else:
                async for reply in self.onward.Chat(requests):
                    yield reply


@dataclass
class Chain:
    stub: Any
    hops: list[Hop]

    async def all_began(self) -> None:
        async with asyncio.timeout(20):
            for hop in self.hops:
                await hop.began.wait()

    async def all_over(self) -> dict[str, list[str]]:
        """Every handler has ended: how."""
        async with asyncio.timeout(20):
            for hop in self.hops:
                await hop.over.wait()
        return {hop.name: hop.ended for hop in self.hops}

    async def all_cancelled(self) -> None:
        """Every handler has seen its CancelledError."""
        assert await self.all_over() == {name: ["CancelledError"] for name in HOPS}


@contextlib.asynccontextmanager
async def chain(style: Style | None = None, **settings: Any) -> AsyncIterator[Chain]:
    """The three services and a client; `style` is how the middle one calls on."""
    registry = MemoryRegistry()
    services = {name: Service(name, registry=registry, **settings) for name in HOPS}
    hops = {name: Hop(name) for name in HOPS}
    for name, behind in (("front", "middle"), ("middle", "back")):
        hops[name].onward = rpc.GreeterStub(services[name].channel(behind))
    hops["middle"].style = style
    async with contextlib.AsyncExitStack() as stack:
        for name in reversed(HOPS):
            services[name].add(hops[name], pb.DESCRIPTOR.services_by_name["Greeter"])
            await stack.enter_async_context(services[name])
        client = await stack.enter_async_context(Client(registry=registry, **settings))
        # Else the first call's deadline is for connecting too, which takes long on a busy machine.
        for maker, behind in ((client, "front"), (services["front"], "middle"), (services["middle"], "back")):
            await maker.channel(behind).channel_ready()
        made = Chain(rpc.GreeterStub(client.channel("front")), list(hops.values()))
        try:
            yield made
        finally:
            for hop in made.hops:
                hop.go.set()
                for task in hop.spawned:
                    task.cancel()
                if hop.spawned:
                    await asyncio.wait(hop.spawned)


def each_has_less(hops: list[Hop], first: float) -> None:
    """What each hop had left: what the one above it had when it called on, and never more."""
    (above,) = hops[0].remaining
    assert above is not None
    assert above <= first + ROUNDED_ABOVE_A_SECOND
    for hop in hops[1:]:
        (left,) = hop.remaining
        assert left is not None
        assert left <= above - WORK + ROUNDED_ABOVE_A_SECOND
        above = left


async def with_a_larger_timeout(hop: Hop, request: pb.HelloRequest) -> Any:
    return await hop.onward.SayHello(request, timeout=60)


@pytest.mark.parametrize("style", [None, with_a_larger_timeout], ids=["default", "larger"])
async def test_each_hop_has_what_is_left_and_never_more(style: Style | None) -> None:
    async with chain(style) as called:
        called.hops[-1].go.set()
        await called.stub.SayHello(pb.HelloRequest(), timeout=AMPLE)
        each_has_less(called.hops, AMPLE)


@pytest.mark.parametrize("name", ["CountDown", "GreetAll", "Chat"])
async def test_streams_have_what_is_left_too_and_none_of_their_own(name: str) -> None:
    for timeout in (AMPLE, None):
        async with chain() as called:
            called.hops[-1].go.set()
            rpc_ = getattr(called.stub, name)
            if name == "CountDown":
                call = rpc_(pb.CountDownRequest(), timeout=timeout)
            else:
                call = rpc_(
                    iter([pb.HelloRequest() if name == "GreetAll" else pb.ChatMessage()]), timeout=timeout
                )
            if name == "GreetAll":
                await call
            else:
                assert len([message async for message in call]) == 1
            if timeout is None:
                assert [hop.remaining for hop in called.hops] == [[None]] * 3
            else:
                each_has_less(called.hops, timeout)


async def test_a_shorter_timeout_of_ones_own_holds_for_those_below() -> None:
    async def shorter(hop: Hop, request: pb.HelloRequest) -> None:
        with contextlib.suppress(pymicro.DeadlineExceeded):
            await hop.onward.SayHello(request, timeout=0.2)

    async with chain(shorter) as called:
        # The middle one catches it, and answers: its own deadline is far.
        reply = await called.stub.SayHello(pb.HelloRequest(), timeout=30)
        assert reply.message == "front"
        (left,) = called.hops[-1].remaining
        assert left is not None
        assert left <= 0.2 + ROUNDED
        await called.hops[-1].over.wait()
        assert called.hops[-1].ended == ["CancelledError"]


async def test_without_a_deadline_the_default_bounds_all_hops() -> None:
    async with chain(client_request_timeout="900ms") as called:
        called.hops[-1].go.set()
        await called.stub.SayHello(pb.HelloRequest())
        each_has_less(called.hops, 0.9)


async def test_asyncio_timeout_around_a_call_cancels_the_whole_chain() -> None:
    async with chain() as called:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                call = called.stub.SayHello(pb.HelloRequest(), timeout=60)
                await called.all_began()
                limit.reschedule(asyncio.get_running_loop().time())
                await call
        await called.all_cancelled()


async def test_cancelling_a_callers_task_cancels_every_handler_below() -> None:
    async with chain() as called:

        async def caller() -> None:
            await called.stub.SayHello(pb.HelloRequest(), timeout=60)

        task = asyncio.create_task(caller())
        await called.all_began()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await called.all_cancelled()


@pytest.mark.parametrize("name", ["CountDown", "GreetAll", "Chat"])
@pytest.mark.parametrize("way", ["cancel", "drop", "task"])
async def test_cancelling_a_stream_cancels_every_handler_below(name: str, way: str) -> None:
    async with chain() as called:
        call = begin(called.stub, name)
        await called.all_began()
        if name == "CountDown":
            assert (await call.read()).number == 1  # it goes through all three
            async with asyncio.timeout(20):
                for hop in called.hops:
                    await hop.passed.wait()
        if way == "cancel":
            call.cancel()
        elif way == "drop":
            del call
        else:
            task = asyncio.create_task(_next(call))
            await asyncio.sleep(0)
            del call
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            del task
        await called.all_cancelled()


def begin(stub: Any, name: str) -> Any:
    """A stream that stays open."""
    if name == "CountDown":
        return stub.CountDown(pb.CountDownRequest(), timeout=60)
    return getattr(stub, name)(timeout=60)


async def _next(call: Any) -> Any:
    return await call.read() if hasattr(call, "read") else await call


async def _say_hello(hop: Hop, **options: Any) -> Any:
    return await hop.onward.SayHello(pb.HelloRequest(), **options)


async def three_at_once(hop: Hop, request: pb.HelloRequest) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(_say_hello(hop))


async def test_a_handler_that_calls_on_in_tasks_of_its_own_takes_them_along() -> None:
    async with chain(three_at_once) as called:
        back = called.hops[-1]
        call = called.stub.SayHello(pb.HelloRequest(), timeout=60)
        await eventually(lambda: len(back.remaining) == 3, "all three run")
        call.cancel()
        await eventually(lambda: len(back.ended) == 3, "all three have ended")
        assert back.ended == ["CancelledError"] * 3


async def in_a_task_left_alone(hop: Hop, request: pb.HelloRequest) -> None:
    hop.spawned.append(asyncio.create_task(_say_hello(hop, timeout=60)))
    await asyncio.Event().wait()


async def test_a_task_that_a_handler_forgets_is_bound_by_its_callers_deadline() -> None:
    async with chain(in_a_task_left_alone) as called:
        with pytest.raises(pymicro.DeadlineExceeded):
            await called.stub.SayHello(pb.HelloRequest(), timeout=0.4)
        ended = await called.all_over()
        # The call that it waits for ends at the same moment, and may be seen first.
        assert ended.pop("front") in (["CancelledError"], ["DeadlineExceeded"])
        assert ended == {"middle": ["CancelledError"], "back": ["CancelledError"]}
        (task,) = called.hops[1].spawned
        async with asyncio.timeout(20):
            with pytest.raises(pymicro.DeadlineExceeded):
                await task


@pytest.mark.parametrize("name", ["SayHello", "CountDown", "GreetAll", "Chat"])
async def test_a_deadline_that_passes_below_is_no_internal_error_anywhere(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with chain() as called:
        for _ in range(10):
            with pytest.raises(pymicro.DeadlineExceeded):
                if name == "SayHello":
                    await called.stub.SayHello(pb.HelloRequest(), timeout=0.1)
                else:
                    call = begin_with(called.stub, name, 0.1)
                    if name == "GreetAll":
                        await call
                    else:
                        async for _message in call:
                            pass
        await eventually(
            lambda: all(len(hop.ended) == len(hop.remaining) for hop in called.hops),
            "all handlers have ended",
        )
    assert "internal error" not in caplog.text


def begin_with(stub: Any, name: str, timeout: float) -> Any:
    if name == "CountDown":
        return stub.CountDown(pb.CountDownRequest(), timeout=timeout)
    return getattr(stub, name)(timeout=timeout)


async def just_before_the_deadline(hop: Hop, request: pb.HelloRequest) -> None:
    left = pymicro.current().time_remaining()
    assert left is not None
    await hop.onward.SayHello(request, timeout=left - 0.008)


async def test_an_onward_call_that_ends_with_our_own_deadline_ends_ours_likewise() -> None:
    async with chain(just_before_the_deadline) as called:
        for _ in range(10):
            # The answer comes in time to be seen: it must not be INTERNAL.
            with pytest.raises(pymicro.DeadlineExceeded):
                await called.stub.SayHello(pb.HelloRequest(), timeout=0.2)


@pytest.mark.parametrize("jump", [-86400.0, 3600.0], ids=["back", "forward"])
async def test_a_clock_that_is_set_changes_no_deadline(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lefts: list[tuple[float, float]] = []
    wall = time.time

    async def over_a_jump(hop: Hop, request: pb.HelloRequest) -> None:
        context = pymicro.current()
        before, deadline = context.time_remaining(), context.deadline
        assert before is not None
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: wall() + jump)
            after = context.time_remaining()
            assert after is not None
            assert context.deadline == deadline
        lefts.append((before, after))

    async with chain(over_a_jump) as called:
        await called.stub.SayHello(pb.HelloRequest(), timeout=30)
    ((before, after),) = lefts
    assert before - 1 < after <= before
