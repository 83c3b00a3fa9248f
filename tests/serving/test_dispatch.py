"""Calls of all four shapes reach their handlers, with their context."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import pymicro
from pymicro.rpc.scope import NoCall, current_scope
from pymicro.serving.call.context import CallContext, current
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO, eventually, serving, stops_growing


class Keeper:
    """All four shapes, answering with what they were asked."""

    @handler
    async def import_(self, request: pb.Animal) -> pb.Animal:
        return pb.Animal(name=request.name.upper())

    @handler
    async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
        for number in range(3):
            yield pb.Animal(name=f"{request.name}{number}")

    @handler
    async def count(self, requests: AsyncIterator[pb.Animal], context: CallContext) -> pb.Tally:
        return pb.Tally(count=len([request async for request in requests]))

    @handler
    async def talk(self, requests: AsyncIterator[pb.Animal]) -> AsyncIterator[pb.Animal]:
        async for request in requests:
            yield pb.Animal(name=request.name.upper())


async def test_all_four_shapes_answer() -> None:
    async with serving(Keeper()) as running:
        assert await running.ask("Import", "ant") == ["ANT"]
        assert await running.ask("Watch", "bee") == ["bee0", "bee1", "bee2"]
        assert await running.ask("Count", "a", "b", "c") == ["3"]
        assert await running.ask("Talk", "a", "b") == ["A", "B"]
        assert running.server.services == ("pymicro.tests.zoo.Keeper",)
        await eventually(lambda: running.server.in_progress == 0, "no call in progress")


async def test_an_unknown_method_is_unimplemented_and_says_what_there_is() -> None:
    async with serving(Keeper()) as running:
        for path, words in (
            (f"{ZOO}/Imort", ["has Import, Watch, Count, Talk", "did you mean Import?"]),
            ("/zoo.Keper/Import", ["this server has pymicro.tests.zoo.Keeper", "grpc.health.v1.Health"]),
            (f"/{'x' * 5000}/y", ["..."]),
        ):
            for call in (
                running.channel.unary_unary(path)(b""),
                running.channel.stream_unary(path)(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                text = caught.value.details() or ""
                assert [word for word in words if word not in text] == []
                assert path[:200] in text
                assert len(text) < 1100


async def test_the_context_tells_of_the_call() -> None:
    seen: dict[str, Any] = {}

    class Gate:
        @handler("Import")
        async def look(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            seen.update(
                current=current() is context,
                method=context.method,
                peer=context.peer(),
                tag=context.metadata["x-tag"],
                binary=context.metadata.get("x-raw-bin"),
                remaining=context.time_remaining(),
                deadline=context.deadline,
                forwarded=list(context.forwarded(frozenset({"x-tag"}))),
                invocation=dict(context.invocation_metadata())["x-tag"],
                active=context.active,
                context=context,
            )
            await context.send_initial_metadata([("x-early", "1")])
            context.set_trailing("X-One", "1")
            context.set_trailing_metadata([("x-given", "a")])
            context.set_trailing("x-two-bin", b"\x00\xff")
            context.set_trailing_metadata([("x-given", "b")])
            return pb.Animal()

    async with serving(Gate(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        call = running.rpc("Import")(
            pb.Animal(), timeout=10, metadata=[("x-tag", "t"), ("x-raw-bin", b"\x01"), ("x-other", "o")]
        )
        assert ("x-early", "1") in tuple(await call.initial_metadata())
        await call
        trailing = list(await call.trailing_metadata())
    assert trailing == [("x-given", "b"), ("x-one", "1"), ("x-two-bin", b"\x00\xff")]
    assert seen["current"]
    assert seen["active"]
    assert seen["method"] == f"{ZOO}/Import"
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    assert (seen["tag"], seen["binary"], seen["invocation"]) == ("t", b"\x01", "t")
    assert seen["forwarded"] == [("x-tag", "t")]
    assert 8 < seen["remaining"] < 10.2  # grpc rounds a timeout up on its way
    assert abs(seen["deadline"] - time.monotonic()) < 10.2
    context = seen["context"]
    assert not context.active
    # What was read stays readable, what needs the call does not crash the process.
    assert context.peer() == seen["peer"]
    assert context.metadata["x-other"] == "o"
    for touch in (context.peer_identities, context.auth_context, lambda: context.send_initial_metadata([])):
        with pytest.raises(grpc.aio.UsageError, match="has ended"):
            touch()
    with pytest.raises(grpc.aio.UsageError, match="has ended"):
        await context.abort(grpc.StatusCode.ABORTED)


async def test_a_done_callback_gets_the_handlers_context() -> None:
    ended: list[tuple[bool, str, Any]] = []

    class Gate:
        @handler("Import")
        async def look(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context.add_done_callback(
                lambda done: ended.append((done is context, done.peer(), done.metadata["x-tag"]))
            )
            return pb.Animal()

    async with serving(Gate(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        await running.ask("Import", metadata=[("x-tag", "t")])
        await eventually(lambda: bool(ended), "the callback was called")
    ((same, peer, tag),) = ended
    assert (same, tag) == (True, "t")
    assert peer.startswith("ipv4:")


async def test_a_call_without_a_deadline_has_none() -> None:
    seen = []

    class Gate:
        @handler("Import")
        async def look(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            seen.append((context.deadline, context.time_remaining()))
            return pb.Animal()

    async with serving(Gate(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        await running.ask("Import", timeout=None)
    assert seen == [(None, None)]


async def test_current_is_an_error_outside_a_handler_and_after_it() -> None:
    later: list[asyncio.Task[Any]] = []

    async def ask_later(returned: asyncio.Event) -> tuple[bool, Any]:
        inside = current_scope() is not None
        await returned.wait()
        return inside, current_scope()

    returned = asyncio.Event()

    class Gate:
        @handler("Import")
        async def look(self, request: pb.Animal) -> pb.Animal:
            later.append(asyncio.create_task(ask_later(returned)))
            with pymicro.detached():
                later.append(asyncio.create_task(ask_later(returned)))
            await asyncio.sleep(0)
            return pb.Animal()

    with pytest.raises(NoCall):
        current()
    async with serving(Gate(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        await running.ask("Import")
        await eventually(lambda: running.server.in_progress == 0, "the handler has returned")
        returned.set()
        assert [await task for task in later] == [(True, None), (False, None)]


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def test_plain_functions_run_in_threads_with_the_context() -> None:
    loop_thread = threading.get_ident()

    async def mark(call: CallContext, proceed: Any) -> Any:
        VARIABLE.set(call.metadata["x-tag"])  # type: ignore[arg-type]
        return await proceed()

    class Gate:
        @handler("Import")
        def look(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            assert threading.get_ident() != loop_thread
            assert current() is context
            context.send_initial_metadata([("x-early", "1")])  # type: ignore[unused-coroutine]
            context.set_trailing("x-late", "2")
            if request.name == "abort":
                context.abort(grpc.StatusCode.ABORTED, "from a thread")  # type: ignore[unused-coroutine]
                raise AssertionError("abort must raise")
            return pb.Animal(name=VARIABLE.get())

    keeper = pb.DESCRIPTOR.services_by_name["Keeper"]
    async with serving(Gate(), source=keeper, interceptors=[mark]) as running:
        call = running.rpc("Import")(pb.Animal(), metadata=[("x-tag", "copied")], timeout=10)
        assert (await call).name == "copied"
        assert ("x-early", "1") in tuple(await call.initial_metadata())
        assert ("x-late", "2") in tuple(await call.trailing_metadata())
        error = await running.failure("Import", "abort", metadata=[("x-tag", "t")])
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "from a thread")


async def test_a_thread_is_taken_until_its_function_returns_even_if_the_call_was_cancelled() -> None:
    release, began = threading.Event(), []

    class Gate:
        @handler("Import")
        def look(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            began.append((request.name, context))
            if request.name.startswith("slow"):
                release.wait(20)
            return pb.Animal(name=request.name)

    keeper = pb.DESCRIPTOR.services_by_name["Keeper"]
    async with serving(Gate(), source=keeper, config=Config(handler_threads=2)) as running:
        rpc = running.rpc("Import")
        slow = [rpc(pb.Animal(name=f"slow{n}")) for n in range(2)]
        await eventually(lambda: len(began) == 2, "both threads are taken")
        for call in slow:
            call.cancel()
        await eventually(lambda: all(context.cancelled() for _, context in began), "the handlers can tell")
        given_up = rpc(pb.Animal(name="given up"))
        waiting = asyncio.create_task(running.ask("Import", "next"))
        await eventually(lambda: running.server.in_progress == 2, "two calls wait for a thread")
        given_up.cancel()
        await eventually(lambda: running.server.in_progress == 1, "one of them was given up")
        assert len(began) == 2
        release.set()
        assert await waiting == ["next"]
    assert sorted(name for name, _ in began) == ["next", "slow0", "slow1"]


async def test_a_cancelled_call_cancels_its_handler_and_closes_its_generator() -> None:
    ended: list[str] = []
    context_seen: list[CallContext] = []

    class Hanging:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context_seen.append(context)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(f"import {context.cancelled()}")
            raise AssertionError

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            task = asyncio.current_task()
            try:
                while True:
                    yield pb.Animal(name="x" * 60_000)
            finally:
                await asyncio.sleep(0)  # a clean-up may wait
                ended.append(f"watch {asyncio.current_task() is task}")

        @handler
        async def talk(self, requests: AsyncIterator[pb.Animal]) -> AsyncIterator[pb.Animal]:
            try:
                yield pb.Animal()
                async for _ in requests:
                    pass
                ended.append("talk ended as if the requests had")
            finally:
                ended.append("talk")

    keeper = pb.DESCRIPTOR.services_by_name["Keeper"]
    async with serving(Hanging(), source=keeper) as running:
        unary = running.rpc("Import")(pb.Animal())
        await eventually(lambda: bool(context_seen), "the handler runs")
        unary.cancel()
        await eventually(lambda: len(ended) == 1, "it was cancelled")
        # Its reader never reads: the generator is stuck in a write.
        watching = running.rpc("Watch")(pb.Query())
        await watching.read()
        watching.cancel()
        await eventually(lambda: len(ended) == 2, "the generator was closed")
        talking = running.rpc("Talk")()
        await talking.read()
        talking.cancel()
        await eventually(lambda: len(ended) == 3, "the stream was cancelled")
        await eventually(lambda: running.server.in_progress == 0, "nothing is in progress")
    assert ended == ["import True", "watch True", "talk"]


async def test_a_stream_that_was_cut_does_not_look_like_one_that_ended() -> None:
    begun, ended, cancelled = 0, 0, 0

    class Counting:
        @handler("Count")
        async def count(self, requests: AsyncIterator[pb.Animal]) -> pb.Tally:
            nonlocal begun, ended, cancelled
            begun += 1
            try:
                number = len([request async for request in requests])
            except asyncio.CancelledError:
                cancelled += 1
                raise
            ended += 1  # where an upload would be stored
            return pb.Tally(count=number)

        @handler("Talk")
        async def talk(
            self, requests: AsyncIterator[pb.Animal], context: CallContext
        ) -> AsyncIterator[pb.Animal]:
            nonlocal begun, ended, cancelled
            begun += 1
            try:
                while await context.read() is not grpc.aio.EOF:
                    pass
            except asyncio.CancelledError:
                cancelled += 1
                raise
            ended += 1
            yield pb.Animal()

    async with serving(Counting(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        for number in range(1, 101):
            call = running.rpc("Count" if number % 2 else "Talk")()
            await call.write(pb.Animal())
            await eventually(lambda number=number: begun == number, "the handler reads")  # type: ignore[misc]
            call.cancel()
        await eventually(lambda: running.server.in_progress == 0, "all calls have ended")
    # Left to grpc.aio nearly all of these look as if the caller had finished.
    assert (ended, cancelled) == (0, 100)


async def test_a_slow_reader_holds_the_handler_up() -> None:
    made = 0

    class Fast:
        @handler("Watch")
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            nonlocal made
            while True:
                made += 1
                yield pb.Animal(name="x" * 100_000)

    async with serving(Fast(), source=pb.DESCRIPTOR.services_by_name["Keeper"]) as running:
        call = running.rpc("Watch")(pb.Query())
        await call.read()
        # Full windows hold it: some 30 MB at the most, where unheld it would make GBs.
        assert await stops_growing(lambda: made) < 1000
        call.cancel()


async def test_handlers_are_added_before_the_port_is_bound() -> None:
    async with serving(Keeper()) as running:
        with pytest.raises(RuntimeError, match="before the server starts"):
            running.server.add(Keeper(), pb)
