"""A call that fails is tried on another node where that is safe, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import time
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

import pymicro
from pymicro.calling.call.requests import KEEP, Requests
from pymicro.calling.call.state import RUNNING, WAITING
from pymicro.calling.connections.node_channel import NodeChannel
from pymicro.rpc import scope as scopes

from .flaky import EXHAUSTED, NOT_STARTED, UNAVAILABLE, Nodes, Refusal, flaky

NOT_FOUND = grpc.StatusCode.NOT_FOUND
MARK = (("pymicro-idempotent", "1"),)


def first(*refusals: Refusal) -> Any:
    """The first calls end so, the others well."""
    return lambda number: refusals[number] if number < len(refusals) else None


def always(refusal: Refusal) -> Any:
    return lambda _: refusal


async def test_what_was_not_started_is_tried_on_another_node() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, NOT_STARTED))
        call = nodes.method()(b"x")
        answer = await call
        assert len(nodes.ran) == len(set(nodes.ran)) == 2
        assert answer.decode() == nodes.ran[1] == call.node.id


@pytest.mark.parametrize("code", [EXHAUSTED, UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_what_may_have_run_is_not_tried_again(code: grpc.StatusCode) -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(code))
        with pytest.raises(pymicro.RpcError, match="refused by") as caught:
            await nodes.method()(b"x")
        assert caught.value.code() is code
        assert len(nodes.ran) == 1


@pytest.mark.parametrize("names", [("/t.T/Get",), ("t.T/Get",), ("Get",), "Get"])
async def test_a_method_the_channel_names_may_run_twice(names: Any) -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal())
        await nodes.method(idempotent=names)(b"x")
        assert len(set(nodes.ran)) == 2


@pytest.mark.parametrize("names", ["", "t.T/", "/Get", "t.T.Get", [None]])
async def test_a_name_that_is_no_methods_is_refused(names: Any) -> None:
    async with flaky(1) as nodes:
        with pytest.raises(pymicro.ConfigError, match="names no method"):
            nodes.method(idempotent=names if isinstance(names, list) else [names])


async def test_a_mark_counts_for_unavailable_only() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(NOT_FOUND))
        with pytest.raises(pymicro.NotFound):
            await nodes.method(idempotent=["Get"])(b"x")
        assert len(nodes.ran) == 1


def _proto_with_option() -> None:
    pool = descriptor_pool.Default()
    file = FileDescriptorProto(name="retries_test.proto", package="retried", syntax="proto3")
    file.message_type.add(name="M")
    service = file.service.add(name="S")
    for name, level in (("Plain", 0), ("Safe", 1), ("Twice", 2)):
        method = service.method.add(name=name, input_type=".retried.M", output_type=".retried.M")
        if level:
            method.options.CopyFrom(MethodOptions(idempotency_level=level))  # type: ignore[arg-type]
    pool.AddSerializedFile(file.SerializeToString())


def test_the_protos_option_is_a_mark() -> None:
    from pymicro.rpc.idempotent import proto_says_idempotent

    _proto_with_option()
    told = {name: proto_says_idempotent(f"/retried.S/{name}") for name in ("Plain", "Safe", "Twice", "None")}
    assert told == {"Plain": False, "Safe": True, "Twice": True, "None": False}


async def test_a_mark_that_comes_with_an_answer_is_remembered() -> None:
    async with flaky() as nodes:
        nodes.trailers = MARK
        for _ in nodes.nodes:  # each speaks for itself (test_marks.py)
            await nodes.method()(b"x")
        nodes.refuse = lambda number: Refusal() if number == 3 else None
        await nodes.method()(b"x")
        assert len(nodes.ran) == 5
        # It is this method's, not the service's.
        nodes.refuse = lambda number: Refusal() if number == 5 else None
        with pytest.raises(pymicro.Unavailable):
            await nodes.method(path="/t.T/Read")(b"x")


async def test_a_mark_that_comes_with_the_failure_counts() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(trailers=MARK))
        await nodes.method()(b"x")
        assert len(nodes.ran) == 2


async def test_without_retries_there_are_none() -> None:
    async with flaky(client_retries=0) as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, NOT_STARTED))
        with pytest.raises(pymicro.ResourceExhausted):
            await nodes.method(idempotent=["Get"])(b"x")
        assert len(nodes.ran) == 1


@pytest.mark.parametrize(("retries", "attempts"), [(1, 2), (2, 3), (9, 3)])
async def test_no_node_is_tried_twice_and_the_last_error_is_the_answer(retries: int, attempts: int) -> None:
    async with flaky(client_retries=retries) as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        call = nodes.method()(b"x")
        with pytest.raises(pymicro.ResourceExhausted) as caught:
            await call
        assert len(nodes.ran) == len(set(nodes.ran)) == attempts
        error = caught.value
        assert error.details() == f"refused by {nodes.ran[-1]}"
        assert error.node == call.node
        assert error.attempts == attempts
        assert str(error).endswith(f" on {call.node.address}, the last of {attempts} attempts)")
        assert pickle.loads(pickle.dumps(error)).attempts == attempts


async def test_where_there_is_no_other_node_the_error_is_the_first_ones() -> None:
    async with flaky(1) as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        with pytest.raises(pymicro.ResourceExhausted, match="refused by"):
            await nodes.method()(b"x")
        nodes.refuse = always(Refusal())
        with pytest.raises(pymicro.Unavailable, match="refused by"):
            await nodes.method(idempotent=["Get"])(b"x")
        assert len(nodes.ran) == 2


async def test_a_retried_call_says_how_often_it_was_tried() -> None:
    async with flaky(client_retries=2) as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        with pytest.raises(pymicro.ResourceExhausted):
            await nodes.method()(b"x", metadata=(("k", "v"),))
        assert [told.get("pymicro-previous-attempts") for told in nodes.metadata] == [None, "1", "2"]
        assert [told["k"] for told in nodes.metadata] == ["v", "v", "v"]


class _Serving:
    """A call being served, as far as onward calls see it."""

    active = True

    def __init__(self, retried: bool) -> None:
        self.retried = retried

    def time_remaining(self) -> float | None:
        return 4.0

    def forwarded(self, names: frozenset[str]) -> list[tuple[str, str | bytes]]:
        return []


@pytest.mark.parametrize(("retried", "attempts"), [(False, 2), (True, 1)])
async def test_calls_of_a_retried_call_are_not_retried_themselves(retried: bool, attempts: int) -> None:
    async with flaky() as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        token = scopes.scope.set(_Serving(retried))
        try:
            with pytest.raises(pymicro.ResourceExhausted):
                await nodes.method()(b"x")
        finally:
            scopes.scope.reset(token)
        assert len(nodes.ran) == attempts


async def test_when_the_budget_is_spent_calls_fail_at_their_first_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with flaky() as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        get = nodes.method()
        for _ in range(100):
            with pytest.raises(pymicro.ResourceExhausted):
                await get(b"x")
        # Ten of the reserve, and what comes back to it meanwhile.
        assert 110 <= len(nodes.ran) <= 112
        assert caplog.text.count("more calls fail than may be tried again") == 1


async def test_calls_that_succeed_earn_retries() -> None:
    async with flaky() as nodes:
        get = nodes.method()
        target = nodes.client.channel("t").open()
        while target.budget.spend(time.monotonic()):
            pass
        for _ in range(50):
            await get(b"x")
        begun = len(nodes.ran)
        nodes.refuse = lambda number: Refusal(EXHAUSTED, NOT_STARTED) if number == begun else None
        await get(b"x")
        assert len(nodes.ran) == begun + 2


async def test_every_pick_is_ended_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with flaky() as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, NOT_STARTED))
        chooser = nodes.client.channel("t").open().chooser
        ended: list[Any] = []
        pick, done = chooser.pick, chooser.done
        picked = 0

        def counted(call: Any) -> Any:
            nonlocal picked
            picked += 1
            return pick(call)

        monkeypatch.setattr(chooser, "pick", counted)
        monkeypatch.setattr(chooser, "done", lambda one, *more: ended.append(one) or done(one, *more))
        get = nodes.method()
        for _ in range(30):  # more than the budget has retries
            await asyncio.gather(get(b"x"), return_exceptions=True)
        assert picked == len(ended) == 60


async def test_a_connection_that_came_up_meanwhile_may_have_carried_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with flaky(2) as nodes:
        monkeypatch.setattr(NodeChannel, "ready", lambda _: False)
        channels = nodes.client.channel("t").open().channels

        def refuse(_: int) -> Refusal:
            for channel in channels.values():
                channel._saw(grpc.ChannelConnectivity.READY)
            return Refusal()

        nodes.refuse = refuse
        with pytest.raises(pymicro.Unavailable):
            await nodes.method()(b"x")
        assert len(nodes.ran) == 1


PUSHBACKS = [("0", 2), ("30", 2), ("-1", 1), ("soon", 1), ("60000", 1)]


@pytest.mark.parametrize(("pushback", "attempts"), PUSHBACKS)
async def test_a_servers_pushback_is_obeyed(pushback: str, attempts: int) -> None:
    async with flaky() as nodes:
        trailers = (*NOT_STARTED, ("grpc-retry-pushback-ms", pushback))
        nodes.refuse = first(Refusal(EXHAUSTED, trailers))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        ended = await asyncio.gather(nodes.method()(b"x"), return_exceptions=True)
        assert len(nodes.ran) == attempts
        assert isinstance(ended[0], bytes) == (attempts == 2)
        if pushback == "30":
            assert loop.time() - begun >= 0.03


async def test_all_attempts_have_one_deadline() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, (*NOT_STARTED, ("grpc-retry-pushback-ms", "200"))))
        await nodes.method()(b"x", timeout=3)
        before, after = nodes.remaining
        assert before is not None
        assert after is not None
        assert after <= before - 0.19


async def test_the_call_object_is_the_last_attempts() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, (*NOT_STARTED, ("grpc-retry-pushback-ms", "20"))))
        call = nodes.method()(b"x", timeout=3)
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        code, trailing = await asyncio.gather(call.code(), call.trailing_metadata())
        assert code is grpc.StatusCode.OK
        assert dict(tuple(trailing))["served-by"] == nodes.ran[1] == call.node.id
        assert await call.details() == ""
        assert await call == nodes.ran[1].encode()
        assert call.done()
        assert ended == [call]


async def test_a_done_callback_is_called_once_also_when_all_attempts_fail() -> None:
    async with flaky(2) as nodes:
        nodes.refuse = always(Refusal(EXHAUSTED, (*NOT_STARTED, ("grpc-retry-pushback-ms", "5"))))
        call = nodes.method()(b"x", timeout=3)
        ended: list[Any] = []
        call.add_done_callback(lambda call: ended.append((call.done(), len(nodes.ran))))
        assert await call.code() is EXHAUSTED
        assert await call.details() == f"refused by {nodes.ran[1]}"
        await asyncio.sleep(0)
        assert ended == [(True, 2)]


async def _until_paused(nodes: Nodes, call: Any) -> None:
    async with asyncio.timeout(5):
        await nodes.arrived.wait()
        while call._state.phase is not WAITING:  # noqa: ASYNC110 # the client tells nobody that it pauses
            await asyncio.sleep(0.001)


LATER = Refusal(EXHAUSTED, (*NOT_STARTED, ("grpc-retry-pushback-ms", "2000")))


async def test_a_call_cancelled_before_its_next_attempt_ends_at_once() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(LATER)
        call = nodes.method()(b"x", timeout=4)
        waiting = asyncio.ensure_future(_result(call))
        await _until_paused(nodes, call)
        assert not call.done()
        assert 0 < call.time_remaining() <= 4
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        assert not nodes.client._core.tasks.closed
        assert len(nodes.ran) == 1
        assert not nodes.client.channel("t").open().channels[nodes.nodes[0].key].calls


async def _result(call: Any) -> Any:
    return await call


async def test_who_is_cancelled_while_it_waits_cancels_the_call() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(LATER)
        call = nodes.method()(b"x", timeout=4)
        waiting = asyncio.ensure_future(_result(call))
        await _until_paused(nodes, call)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()


async def test_a_stream_dropped_before_its_next_attempt_is_not_started_again() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(LATER)
        channel = nodes.client.channel("t")
        call = channel.unary_stream("/t.T/List")(b"x", timeout=4)
        await _until_paused(nodes, call)
        assert channel.live
        del call
        gc.collect()
        async with asyncio.timeout(1):
            while channel.live:  # noqa: ASYNC110 # its task ends in a turn of its own
                await asyncio.sleep(0)
        assert len(nodes.ran) == 1


@pytest.mark.parametrize("pushback", ["0", "20"])
async def test_a_stream_of_responses_begins_on_another_node(pushback: str) -> None:
    async with flaky() as nodes:
        trailers = (*NOT_STARTED, ("grpc-retry-pushback-ms", pushback))
        nodes.refuse = lambda number: Refusal(EXHAUSTED, trailers) if number % 2 == 0 else None
        listed = [message async for message in nodes.method("unary_stream", "/t.T/List")(b"x", timeout=3)]
        assert [message.decode() for message in listed] == [f"{nodes.ran[1]} {number}" for number in range(3)]
        call = nodes.method("unary_stream", "/t.T/List")(b"y", timeout=3)
        assert (await call.read()).decode() == f"{nodes.ran[3]} 0"
        assert nodes.requests == [b"x", b"y"]


async def test_a_stream_that_has_begun_is_never_begun_again() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(after=1))
        call = nodes.method("unary_stream", "/t.T/List", idempotent=["List"])(b"x")
        seen = []
        with pytest.raises(pymicro.Unavailable):
            async for message in call:
                seen.append(message)  # noqa: PERF401 # what came before the error
        assert len(seen) == 1
        assert len(nodes.ran) == 1


async def _requests(*messages: bytes, hold: asyncio.Event | None = None) -> Any:
    for number, message in enumerate(messages):
        if number and hold is not None:
            await hold.wait()
        yield message


@pytest.mark.parametrize("plain", [True, False])
async def test_a_short_stream_of_requests_is_sent_again(plain: bool) -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, NOT_STARTED))
        await nodes.method("stream_unary", "/t.T/Put")([b"a", b"b"] if plain else _requests(b"a", b"b"))
        assert nodes.requests == [b"a", b"b"]
        assert len(nodes.ran) == 2


async def test_a_longer_stream_of_requests_is_not_sent_again() -> None:
    async with flaky() as nodes:
        enough = asyncio.Event()

        async def requests() -> Any:
            for number in range(KEEP + 1):
                yield bytes([number])
            enough.set()

        async def refuse_late(node: Any, context: Any) -> None:
            nodes.ran.append(node.id)
            await enough.wait()
            await context.abort(EXHAUSTED, "late", NOT_STARTED)

        nodes._begin = refuse_late  # type: ignore[assignment,method-assign]
        with pytest.raises(pymicro.ResourceExhausted, match="late"):
            await nodes.method("stream_unary", "/t.T/Put")(requests())
        assert len(nodes.ran) == 1


class _Network:
    """Takes requests, or has ended."""

    def __init__(self, *, ended: bool) -> None:
        self.ended = ended
        self.written: list[Any] = []

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        if self.ended:
            raise asyncio.InvalidStateError
        self.written.append(data)

    async def done_writing(self) -> None:
        self.written.append("done")


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("count", [1, KEEP, KEEP + 2])
async def test_each_request_is_sent_once_however_late_the_sender_learns_of_another_attempt(
    turns: int, count: int
) -> None:
    first, second = _Network(ended=True), _Network(ended=False)
    messages = [bytes([number]) for number in range(count)]
    requests = Requests(iter(messages), keep=True)

    class State:
        phase = RUNNING
        inner = first
        called = SimpleNamespace(method=SimpleNamespace(serialize=bytes))

        async def settled(self, inner: Any) -> None:
            self.inner = second
            requests.send_again(second)
            for _ in range(turns):
                await asyncio.sleep(0)

        def fail(self, error: BaseException) -> None:
            raise error

    await requests.run(State())  # type: ignore[arg-type]
    assert requests._again is not None
    await requests._again
    assert second.written == [*messages, "done"]


async def test_an_upload_that_pauses_goes_on_at_another_node() -> None:
    async with flaky() as nodes:
        begun = asyncio.Event()

        async def requests() -> Any:
            yield b"a"
            await begun.wait()
            yield b"b"

        def refuse(number: int) -> Refusal | None:
            if number == 0:
                return Refusal()
            begun.set()
            return None

        nodes.refuse = refuse
        await nodes.method("stream_unary", "/t.T/Put", idempotent=["Put"])(requests(), timeout=5)
        assert nodes.requests == [b"a", b"b"]
        assert len(nodes.ran) == 2


async def test_written_requests_reach_one_node_only() -> None:
    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, NOT_STARTED))
        call = nodes.method("stream_stream", "/t.T/Chat")(timeout=5)
        # The refusal has come, and nothing was written yet: the call goes on elsewhere.
        async with asyncio.timeout(5):
            while len(nodes.ran) < 2:
                nodes.arrived.clear()
                await nodes.arrived.wait()
        await call.write(b"a")
        assert await call.read() == b"A"
        await call.write(b"b")
        await call.done_writing()
        assert await call.read() == b"B"
        assert await call.read() is grpc.aio.EOF
        assert nodes.requests == [b"a", b"b"]


async def test_a_call_through_interceptors_is_one_call_for_them() -> None:
    seen = []

    async def interceptor(call: Any, proceed: Any) -> Any:
        seen.append(call.method)
        return await proceed()

    async with flaky() as nodes:
        nodes.refuse = first(Refusal(EXHAUSTED, (*NOT_STARTED, ("grpc-retry-pushback-ms", "5"))))
        answer = await nodes.method(interceptors=[interceptor])(b"x", timeout=3)
        assert answer.decode() == nodes.ran[1]
        assert seen == ["/t.T/Get"]


async def test_many_calls_at_once_leave_nothing_behind() -> None:
    async with flaky() as nodes:
        numbers = itertools.count()
        nodes.refuse = lambda _: Refusal(EXHAUSTED, NOT_STARTED) if next(numbers) % 10 == 0 else None
        channel = nodes.client.channel("t")
        get = channel.unary_unary("/t.T/Get")
        for _ in range(20):
            await asyncio.gather(*(get(b"x", timeout=5) for _ in range(16)), return_exceptions=True)
        assert not channel.live
        assert all(not node_channel.calls for node_channel in channel.open().channels.values())
