"""Calls that are refused before their handler runs, with the proof of it; and none that should run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import pymicro
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED, PUSHBACK
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import ZOO, Running, eventually, serving
from tests.serving.test_dispatch import Keeper
from tests.serving.test_foreign_interceptors import Seeing, passing

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
SHAPES = ("Import", "Watch", "Count", "Talk")
AROUND = pytest.mark.parametrize(
    "around",
    [[], [passing], [Seeing()], [Seeing(), passing]],
    ids=["bare", "ours", "foreign", "both"],
)


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(tuple(error.trailing_metadata() or ()))


class Waiting:
    """Four handlers that wait until they are let go, and say that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.go = asyncio.Event()

    async def _run(self, name: str) -> pb.Animal:
        self.ran.append(name)
        await self.go.wait()
        return pb.Animal(name=name)

    @handler
    async def import_(self, request: pb.Animal) -> pb.Animal:
        return await self._run("Import")

    @handler
    async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
        yield await self._run("Watch")

    @handler
    async def count(self, requests: Any) -> pb.Tally:
        await self._run("Count")
        return pb.Tally(count=1)

    @handler
    async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
        yield await self._run("Talk")


@contextlib.asynccontextmanager
async def full(waiting: object, calls: int = 1, **options: Any) -> AsyncIterator[Running]:
    """A server that may work on so many calls, and does."""
    config = Config(max_concurrent_calls=calls)
    async with serving(waiting, source=KEEPER, config=config, **options) as running:
        taken = [asyncio.create_task(running.ask("Import")) for _ in range(calls)]
        await eventually(lambda: running.server.in_progress == calls, "all places are taken")
        yield running
        waiting.go.set()  # type: ignore[attr-defined]
        for call in taken:
            assert await call == ["Import"]


@AROUND
@pytest.mark.parametrize("name", SHAPES)
async def test_over_the_limit_a_call_is_refused_at_once_and_has_not_run(name: str, around: list[Any]) -> None:
    waiting = Waiting()
    async with full(waiting, interceptors=around) as running:
        error = await running.failure(name, ends=False)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_concurrent_calls" in (error.details() or "")
        assert trailers(error) == dict([FROM_PEER, NOT_STARTED])
        assert waiting.ran == ["Import"]
        waiting.go.set()
        await eventually(lambda: running.server.in_progress == 0, "the place is free")
        assert len(await running.ask(name)) == 1
        assert waiting.ran == ["Import", name]


async def test_refused_calls_take_no_place_and_there_is_one_line_about_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting = Waiting()
    async with full(waiting, calls=3) as running:
        errors = await asyncio.gather(*(running.failure(SHAPES[n % 4], ends=False) for n in range(40)))
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert running.server.in_progress == 3
        assert len(waiting.ran) == 3
    lines = [record for record in caplog.records if "max_concurrent_calls" in record.getMessage()]
    assert len(lines) == 1


async def test_a_call_that_was_cancelled_or_failed_gives_its_place_back() -> None:
    class Odd(Waiting):
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            if request.name == "crash":
                raise ValueError
            return await self._run("Import")

    waiting = Odd()
    config = Config(max_concurrent_calls=1)
    async with serving(waiting, source=KEEPER, config=config) as running:
        for _ in range(3):
            call = running.rpc("Import")(pb.Animal())
            await eventually(lambda: running.server.in_progress == 1, "it runs")
            call.cancel()
            await eventually(lambda: running.server.in_progress == 0, "it was cancelled")
            assert (await running.failure("Import", "crash")).code() is grpc.StatusCode.INTERNAL
        waiting.go.set()
        assert await running.ask("Import") == ["Import"]


async def test_without_a_limit_many_calls_run_at_once() -> None:
    waiting = Waiting()
    async with serving(waiting, source=KEEPER) as running:
        calls = [asyncio.create_task(running.ask("Import")) for _ in range(200)]
        await eventually(lambda: len(waiting.ran) == 200, "all run")
        waiting.go.set()
        await asyncio.gather(*calls)


class OwnHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """What a user may bring instead of ours."""

    async def Check(self, request: Any, context: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        await context.draining.wait()


@AROUND
@pytest.mark.parametrize("own", [False, True], ids=["ours", "the-users"])
async def test_health_and_reflection_take_no_place_and_are_never_refused(
    own: bool, around: list[Any]
) -> None:
    def add(server: Any) -> None:
        if own:
            server.add(OwnHealth())

    waiting = Waiting()
    config = Config(max_concurrent_calls=1)
    around = [interceptor for interceptor in around if not isinstance(interceptor, Seeing)]
    async with serving(waiting, source=KEEPER, config=config, add=add, interceptors=around) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        await watch.read()
        stream = reflection.ServerReflectionInfo(timeout=20)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        await stream.write(asked)
        await stream.read()
        assert running.server.in_progress == 0
        call = asyncio.create_task(running.ask("Import"))  # there is room for it
        await eventually(lambda: waiting.ran == ["Import"], "it runs")
        assert running.server.in_progress == 1
        await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        await stream.write(asked)
        assert await stream.read() is not grpc.aio.EOF
        waiting.go.set()
        await call
        stream.cancel()
        watch.cancel()


Act = Callable[[CallContext], Awaitable[Any]]


class Fixed:
    """A server behind that refuses as told."""

    @handler
    async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
        raise pymicro.ResourceExhausted("quota", trailing_metadata=[(PUSHBACK, "7000"), ("x-quota", "9")])


def received() -> pymicro.RpcError:
    """What an onward call ends with whose server was full."""
    pairs = [NOT_STARTED, FROM_PEER, IDEMPOTENT, (PUSHBACK, "7000"), ("x-quota", "9")]
    return pymicro.ResourceExhausted("full", trailing_metadata=pairs, callee="back/x.Y/Z", from_peer=True)


async def lets_it_through(context: CallContext) -> None:
    raise received()


async def raises_from_it(context: CallContext) -> None:
    raise pymicro.ResourceExhausted("no") from received()


async def copies_its_metadata(context: CallContext) -> None:
    try:
        raise received()
    except pymicro.RpcError as exc:
        raise pymicro.ResourceExhausted("no", trailing_metadata=exc.trailing_metadata()) from exc


async def copies_it_and_hides_the_cause(context: CallContext) -> None:
    try:
        raise received()
    except pymicro.RpcError as exc:
        raise pymicro.ResourceExhausted("no", trailing_metadata=exc.trailing_metadata()) from None


async def copies_it_of_a_bare_channel(context: CallContext) -> None:
    exc = received()
    bare = grpc.aio.AioRpcError(exc.code(), grpc.aio.Metadata(), exc.trailing_metadata(), "no")
    raise pymicro.ResourceExhausted("no", trailing_metadata=bare.trailing_metadata()) from bare


async def sets_it_and_raises(context: CallContext) -> None:
    try:
        raise received()
    except pymicro.RpcError as exc:
        context.set_trailing_metadata(exc.trailing_metadata())
    raise pymicro.ResourceExhausted("no")


async def adds_it_and_raises(context: CallContext) -> None:
    try:
        raise received()
    except pymicro.RpcError as exc:
        for key, value in exc.trailing_metadata() or ():
            context.set_trailing(key.title(), value)
    raise pymicro.ResourceExhausted("no")


async def aborts_with_it(context: CallContext) -> None:
    try:
        raise received()
    except pymicro.RpcError as exc:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", exc.trailing_metadata())


PASSING_ON = [
    lets_it_through,
    raises_from_it,
    copies_its_metadata,
    copies_it_and_hides_the_cause,
    copies_it_of_a_bare_channel,
    sets_it_and_raises,
    adds_it_and_raises,
    aborts_with_it,
]


@AROUND
@pytest.mark.parametrize("act", PASSING_ON, ids=lambda act: act.__name__)
async def test_a_handler_that_ran_never_says_that_it_did_not(act: Act, around: list[Any]) -> None:
    class Middle:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            await act(context)
            raise AssertionError

        @handler
        async def talk(self, requests: Any, context: CallContext) -> AsyncIterator[pb.Animal]:
            await act(context)
            yield pb.Animal()

    async with serving(Middle(), source=KEEPER, interceptors=around) as running:
        for name in ("Import", "Talk"):
            error = await running.failure(name, ends=False)
            found = trailers(error)
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
            assert found.keys() <= {FROM_PEER[0], "x-quota"}
            if act not in (lets_it_through, raises_from_it):
                assert found["x-quota"] == "9"  # what is the handler's business is left alone


async def test_a_handlers_own_pushback_goes_out() -> None:
    class Full:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            if request.name == "sets":
                context.set_trailing(PUSHBACK, "30")
            elif request.name == "aborts":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no", [(PUSHBACK, "30")])
            raise pymicro.Unavailable("no", trailing_metadata=[(PUSHBACK, "30")]) from received()

    async with serving(Full(), source=KEEPER) as running:
        for name in ("sets", "aborts", "raises"):
            error = await running.failure("Import", name)
            assert trailers(error)[PUSHBACK] == "30"
            assert NOT_STARTED[0] not in trailers(error)


async def test_an_answer_of_a_handler_carries_nothing_of_ours_that_it_received() -> None:
    class Copying:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context.set_trailing_metadata(received().trailing_metadata())
            context.set_trailing("Pymicro-Not-Started", "1")
            return pb.Animal()

    async with serving(Copying(), source=KEEPER) as running:
        call = running.rpc("Import")(pb.Animal(), timeout=20)
        await call
        assert dict(tuple(await call.trailing_metadata())) == {PUSHBACK: "7000", "x-quota": "9"}


# A deadline that has passed


class Blocking(grpc.aio.ServerInterceptor):
    """Holds the event loop of the server up, when asked to, between the request and the handler."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        given = await continuation(handler_call_details)
        if not dict(handler_call_details.invocation_metadata).get("x-block"):
            return given

        async def answer(request: Any, context: Any) -> Any:
            end = time.monotonic() + (context.time_remaining() or 0) + 0.05
            while time.monotonic() < end:
                time.sleep(0.001)  # noqa: ASYNC251  # that is the fault
            return await given.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, given.request_deserializer, given.response_serializer
        )


async def test_a_call_whose_deadline_passed_before_its_start_is_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[str] = []

    class Noting:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            ran.append(request.name)
            return pb.Animal()

    async with serving(Noting(), source=KEEPER, interceptors=[Blocking()]) as running:
        for _ in range(5):
            error = await running.failure("Import", "late", timeout=0.05, metadata=[("x-block", "1")])
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await running.ask("Import", "in time")
        await eventually(lambda: running.server.in_progress == 0, "no call is left")
    assert ran == ["in time"]
    assert not caplog.records  # of a status that no longer reaches its caller


@pytest.mark.grpc_only("its calls come in by threads of grpc-core, while the loop stands still")
async def test_streams_that_waited_for_a_blocked_loop_past_their_deadline_are_not_run() -> None:
    ran: list[str] = []

    class Noting:
        @handler
        async def count(self, requests: Any) -> pb.Tally:
            ran.append("count")
            return pb.Tally()

        @handler
        async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
            ran.append("talk")
            yield pb.Animal()

    async with serving(Noting(), source=KEEPER) as running:
        await running.ask("Talk", ends=False)  # the handler reads nothing
        ran.clear()
        calls = [running.rpc(name)(timeout=0.05) for name in ("Count", "Talk") for _ in range(5)]
        await asyncio.sleep(0)  # they are sent, by grpc-core's own threads
        time.sleep(0.2)  # noqa: ASYNC251  # that is the fault
        for call in calls:
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await running.ask("Talk", ends=False, timeout=20)
    assert ran == ["talk"]


# Paths that nobody serves


async def test_an_unknown_path_was_not_started_and_a_raised_unimplemented_was() -> None:
    class Part:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            raise pymicro.Unimplemented("not for ants")

    async with serving(Part(), source=KEEPER) as running:  # partial: only Import
        for path in ("/no.Such/Thing", f"{ZOO}/Watch", f"{ZOO}/Nothing", "/", "/" + "x" * 3000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.channel.unary_unary(path)(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "is not served here" in (caught.value.details() or "")
            assert trailers(caught.value) == dict([FROM_PEER, NOT_STARTED])
        error = await running.failure("Import")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert trailers(error) == dict([FROM_PEER])


@AROUND
async def test_a_servicers_own_method_was_not_started(around: list[Any]) -> None:
    class Servicer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        async def Import(self, request: Any, context: Any) -> Any:
            context.set_code(grpc.StatusCode.UNIMPLEMENTED)
            return pb.Animal()

    async with serving(add=lambda server: server.add(Servicer()), interceptors=around) as running:
        for name in ("Watch", "Count", "Talk"):
            error = await running.failure(name, ends=False)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert trailers(error) == dict([FROM_PEER, NOT_STARTED])
        assert NOT_STARTED[0] not in trailers(await running.failure("Import"))


async def test_an_interceptor_that_answers_for_a_missing_method_answers() -> None:
    async def answering(call: CallContext, proceed: Any) -> Any:
        try:
            return await proceed()
        except pymicro.Unimplemented as exc:
            raise pymicro.NotFound("nowhere") from exc

    async with serving(
        add=lambda server: server.add(zoo_pb2_grpc.KeeperServicer()), interceptors=[answering]
    ) as running:
        error = await running.failure("Import")
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert NOT_STARTED[0] not in trailers(error)


# Callers that have not left when the server stops


async def test_a_server_nobody_calls_is_quiet_at_once() -> None:
    async with serving(Keeper()) as running:
        started = time.monotonic()
        await running.server.quieten(pause=60)
        assert time.monotonic() - started < 5


async def test_callers_that_stay_are_served_until_patience_is_over() -> None:
    over, answered = False, 0

    async with serving(Keeper()) as running:

        async def caller() -> None:
            nonlocal answered
            while not over:
                assert await running.ask("Import") == ["ANT"]
                answered += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(caller())
            await eventually(lambda: answered > 0, "the caller is at work")
            async with asyncio.timeout(20):
                await running.server.quieten(pause=60)
            over = True


def stand_still(seconds: float) -> None:
    """Hold the event loop for so long, and until all other threads of this process have nothing to do.

    On a busy machine grpc-core's threads may need much longer to receive what was sent.
    """
    tasks, idle = Path("/proc/self/task"), 0
    if not tasks.is_dir():
        time.sleep(1.0)  # macOS does not tell without a debugger
        return
    until = time.monotonic() + seconds
    while idle < 3 or time.monotonic() < until:
        time.sleep(0.02)
        busy = [task.name for task in tasks.iterdir() if not _waits(task)]
        idle = 0 if busy else idle + 1
        assert time.monotonic() < until + 60, f"threads {busy} work on and on"


def _waits(task: Path) -> bool:
    """Whether a thread waits for something; this one, which asks, counts as one that does."""
    if int(task.name) == threading.get_native_id():
        return True
    try:
        # proc_pid_stat(5): the state stands behind the name, which may have anything in it.
        return (task / "stat").read_text().rpartition(")")[2].split()[0] != "R"
    except FileNotFoundError:
        return True  # it has ended


async def test_a_pause_of_a_blocked_loop_is_none() -> None:
    """What came while the loop stood still has to be seen before it counts as quiet."""
    async with serving(Keeper()) as running:
        await running.ask("Import")
        calls = [running.rpc("Import")(pb.Animal(name="ant")) for _ in range(5)]
        await asyncio.sleep(0)  # they are sent, by grpc-core's own threads
        stand_still(0.3)  # that is the fault
        await running.server.quieten(0.1)
        await running.server.stop(5)
        assert [(await call).name for call in calls] == ["ANT"] * 5


async def test_callers_that_leave_meanwhile_are_all_served() -> None:
    async with serving(Keeper()) as running:
        last = time.monotonic()
        await running.ask("Import")
        quiet = asyncio.create_task(running.server.quieten(0.1))
        while time.monotonic() < last + 0.25:  # as long as a watcher of the local registry may need
            assert await running.ask("Import") == ["ANT"]
        await quiet


async def test_a_stop_ends_the_wait_for_callers_to_leave() -> None:
    async with serving(Keeper()) as running:
        await running.ask("Import")
        waiting = asyncio.create_task(running.server.quieten(0.1))
        await asyncio.sleep(0)
        assert not waiting.done()
        await running.server.stop(0)
        assert waiting.done()


async def test_a_burst_of_calls_is_served_and_none_is_cancelled_in_silence() -> None:
    """They come in one turn of the loop, of which grpc-core would have ended most."""
    many = 3500
    async with serving(Keeper(), source=KEEPER) as running:
        rpc = running.rpc("Import")
        calls = [rpc(pb.Animal(name="ant"), timeout=60) for _ in range(many)]
        codes = Counter([await call.code() for call in calls])
    assert codes == {grpc.StatusCode.OK: many}
