"""What a handler raises, as the caller sees it: a status, and nothing that was not meant for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from pymicro.rpc.status import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from pymicro.rpc.wire.status import from_aio
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import strict_pb2
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import KINDS, MESSAGES, Running, eventually, everything_in, serving

SECRET = "password=hunter2"
KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
Act = Callable[[CallContext], Awaitable[Any]]


def all_shapes(act: Act) -> object:
    """A handler for each shape that does `act` and then answers properly."""

    class Keeper:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            return await act(context) or pb.Animal()

        @handler
        async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
            yield pb.Animal(name="first")
            yield await act(context) or pb.Animal()

        @handler
        async def count(self, requests: Any, context: CallContext) -> pb.Tally:
            async for _ in requests:
                pass
            return await act(context) or pb.Tally()

        @handler
        async def talk(self, requests: Any, context: CallContext) -> AsyncIterator[pb.Animal]:
            async for _ in requests:
                pass
            yield await act(context) or pb.Animal()

    return Keeper()


async def passing(call: CallContext, proceed: Any) -> Any:
    return await proceed()


class Iterating(grpc.aio.ServerInterceptor):
    """A grpc.aio interceptor around each shape, which iterates response streams."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        given = await continuation(handler_call_details)
        name = KINDS[handler_call_details.method.rpartition("/")[2]]
        behaviour = getattr(given, name)

        async def respond(request: Any, context: Any) -> Any:
            return await behaviour(request, context)

        async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
            async for message in behaviour(request, context):
                yield message

        make = getattr(grpc, f"{name}_rpc_method_handler")
        around = iterate if given.response_streaming else respond
        return make(around, given.request_deserializer, given.response_serializer)


SURROUNDINGS: dict[str, Callable[[], list[Any]]] = {
    "bare": list,
    "ours": lambda: [passing],
    "grpc's": lambda: [Iterating()],
    "both": lambda: [passing, Iterating()],
}


async def failures(act: Act, interceptors: Sequence[Any] = (), **options: Any) -> list[grpc.aio.AioRpcError]:
    """The error of each shape when the handler does `act`."""
    async with serving(all_shapes(act), interceptors=interceptors) as running:
        return [await running.failure(name, **options) for name in ("Import", "Watch", "Count", "Talk")]


def the_code(errors: list[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    (code,) = {error.code() for error in errors}
    assert isinstance(code, grpc.StatusCode)
    return code


def raising(make: Callable[[], BaseException]) -> Act:
    async def act(context: CallContext) -> None:
        raise make()

    return act


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize(
    "exception",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        Odd(SECRET),
        SystemExit(SECRET),
        StopAsyncIteration(SECRET),
        TimeoutError(SECRET),
        asyncio.CancelledError(SECRET),
        GeneratorExit(SECRET),
        ExceptionGroup(SECRET, [NotFound(SECRET), Aborted(SECRET)]),
        ExceptionGroup(SECRET, [NotFound(SECRET), NotFound("another text")]),
        ExceptionGroup(SECRET, [NotFound(SECRET), ExceptionGroup("inner", [KeyError(SECRET)])]),
        ExceptionGroup(SECRET, [NotFound(SECRET, callee="/shop.Orders/Get on shop")] * 2),
        BaseExceptionGroup(SECRET, [GeneratorExit(SECRET)]),
        grpc.aio.UsageError(SECRET),
    ],
    ids=lambda exception: type(exception).__name__,
)
@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
async def test_an_unexpected_exception_is_internal_and_its_text_stays_here(
    exception: BaseException, interceptors: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: CallContext) -> None:
        raise exception

    errors = await failures(act, interceptors())
    assert the_code(errors) is grpc.StatusCode.INTERNAL
    for error in errors:
        assert SECRET not in everything_in(error)
        match = re.fullmatch(r"internal error, id ([0-9a-f]{8})", error.details() or "")
        assert match
        (record,) = [r for r in caplog.records if match[1] in r.getMessage()]
        assert record.levelno == logging.ERROR
        assert record.exc_info
        assert "test_handler_errors.py:" in record.getMessage()
        assert "/pymicro.tests.zoo.Keeper/" in record.getMessage()
    # grpc.aio itself may log of a loop that an earlier test closed.
    assert len([record for record in caplog.records if record.name.startswith("pymicro")]) == 4
    assert SECRET in caplog.text


async def test_a_raised_status_goes_out_with_details_and_trailers(caplog: pytest.LogCaptureFixture) -> None:
    info = error_details_pb2.ErrorInfo(reason="NO_SUCH", domain="zoo")

    async def act(context: CallContext) -> None:
        context.set_trailing("x-set", "1")
        raise NotFound("no such ant 🐜", error_details=[info], trailing_metadata=[("x-raised", "2")])

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.NOT_FOUND
    for error in errors:
        ours = from_aio(error, callee="/a/b on c")
        assert isinstance(ours, NotFound)
        assert ours.details() == "no such ant 🐜"
        assert ours.error_details == (info,)
        assert ours.from_peer is True
        trailing = tuple(error.trailing_metadata() or ())
        assert {("x-set", "1"), ("x-raised", "2")} <= set(trailing)
    assert not caplog.records


async def abort_in_a_task(context: CallContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(context.abort(grpc.StatusCode.NOT_FOUND, "no such ant"))


async def fail_in_tasks(context: CallContext) -> None:
    async def look(number: int) -> None:
        raise NotFound("no such ant", trailing_metadata=[("x-raised", "2")])

    async def nested() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(look(1))

    async with asyncio.TaskGroup() as group:
        group.create_task(nested())
        group.create_task(look(2))


GROUPS: dict[str, Act] = {
    "one": raising(lambda: ExceptionGroup("", [NotFound("no such ant")])),
    "nested": raising(lambda: ExceptionGroup("", [ExceptionGroup("", [NotFound("no such ant")])])),
    "alike": raising(lambda: ExceptionGroup("", [NotFound("no such ant"), NotFound("no such ant")])),
    "tasks": fail_in_tasks,
    "aborted": abort_in_a_task,
}


@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("act", GROUPS.values(), ids=GROUPS)
async def test_a_group_of_one_status_is_that_status(
    act: Act, interceptors: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    errors = await failures(act, interceptors())
    assert the_code(errors) is grpc.StatusCode.NOT_FOUND
    assert [error.details() for error in errors] == ["no such ant"] * 4
    if act is fail_in_tasks:
        assert [("x-raised", "2") in tuple(error.trailing_metadata() or ()) for error in errors] == [True] * 4
    assert not caplog.records


async def cancel_and_wait(context: CallContext) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def cancelled_by_another(context: CallContext) -> None:
    assert context.task is not None
    asyncio.get_running_loop().call_soon(context.task.cancel)
    await asyncio.Event().wait()


CANCELS = [cancel_and_wait, cancelled_by_another]
GO_MICRO = (("micro-from-service", "go"),)


@pytest.mark.parametrize("metadata", [(), GO_MICRO], ids=["ordinary", "go-micro"])
@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("act", CANCELS, ids=lambda act: act.__name__)
async def test_a_call_whose_task_is_cancelled_here_is_answered_at_once(
    act: Act, interceptors: Callable[[], list[Any]], metadata: Any, caplog: pytest.LogCaptureFixture
) -> None:
    errors = await failures(act, interceptors(), metadata=metadata)
    assert the_code(errors) is grpc.StatusCode.INTERNAL
    for error in errors:
        match = re.search(r"internal error, id ([0-9a-f]{8})", error.details() or "")
        assert match
        assert (error.details() == match[0]) is not bool(metadata), "go-micro's callers get JSON"
        (record,) = [r for r in caplog.records if match[1] in r.getMessage()]
        assert record.exc_info
        assert "/pymicro.tests.zoo.Keeper/" in record.getMessage()
    assert len(caplog.records) == 4


@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
async def test_a_call_that_its_caller_cancels_is_no_error(
    interceptors: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()
    ended: list[Any] = []

    async def act(context: CallContext) -> None:
        context.add_done_callback(lambda context: ended.append((context.code(), context.details())))
        begun.set()
        await asyncio.Event().wait()

    async with serving(all_shapes(act), interceptors=interceptors()) as running:
        for count, name in enumerate(("Import", "Watch", "Count", "Talk"), 1):
            # By the call itself: grpc.aio's client leaves a stream alone whose reader's task is cancelled
            # before the request has gone out, and then this server hears of nothing.
            request = MESSAGES[name][0]()
            call = running.rpc(name)(iter([request]) if name in ("Count", "Talk") else request)
            await begun.wait()
            begun.clear()
            call.cancel()
            await eventually(lambda count=count: len(ended) == count, "the call has ended")  # type: ignore[misc]
    assert ended == [(None, "")] * 4
    assert not caplog.records


async def test_a_timeout_in_a_grpc_interceptor_is_the_interceptors(caplog: pytest.LogCaptureFixture) -> None:
    class Limiting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            given = await continuation(handler_call_details)

            async def answer(request: Any, context: Any) -> Any:
                try:
                    async with asyncio.timeout(0.01):
                        return await given.unary_unary(request, context)
                except TimeoutError:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow")

            return grpc.unary_unary_rpc_method_handler(
                answer, given.request_deserializer, given.response_serializer
            )

    async def act(context: CallContext) -> None:
        await asyncio.Event().wait()

    async with serving(all_shapes(act), interceptors=[Limiting()]) as running:
        for metadata in ((), GO_MICRO):
            error = await running.failure("Import", metadata=metadata)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too slow" in (error.details() or "")
    assert not caplog.records


@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
async def test_a_written_response_where_one_is_returned_is_an_error_at_once(
    interceptors: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: CallContext) -> None:
        if not context.shape.response_streaming:
            await context.write(pb.Animal())

    async with serving(all_shapes(act), interceptors=interceptors()) as running:
        for name in ("Import", "Count"):
            error = await running.failure(name)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert re.fullmatch(r"internal error, id [0-9a-f]{8}", error.details() or "")
            words = f"Keeper/{name} answers with one response: return it instead of writing it"
            # The line may come a moment after the answer.
            await eventually(lambda words=words: words in caplog.text, "the log says so")  # type: ignore[misc]
        assert await running.ask("Watch") == ["first", ""]


async def test_our_server_says_that_a_status_is_its_own() -> None:
    async def act(context: CallContext) -> None:
        raise Unavailable("the zoo is closed")

    for error in await failures(act):
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert from_aio(error).from_peer is True


@pytest.mark.parametrize(
    "received",
    [
        NotFound(SECRET, callee="/shop.Orders/Get on shop"),
        grpc.aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), SECRET, SECRET
        ),
        DeadlineExceeded(SECRET, callee="/shop.Orders/Get on shop"),
    ],
    ids=["ours", "plain", "deadline"],
)
async def test_an_error_received_and_not_caught_is_internal(
    received: grpc.aio.AioRpcError, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: CallContext) -> None:
        raise received

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.INTERNAL
    assert [SECRET in everything_in(error) for error in errors] == [False] * 4
    callee = getattr(received, "callee", None) or "an onward call"
    assert len([r for r in caplog.records if callee in r.getMessage()]) == 4


async def test_an_error_raised_from_a_received_one_is_passed_on_deliberately() -> None:
    async def act(context: CallContext) -> None:
        try:
            raise NotFound(SECRET, callee="/shop.Orders/Get on shop")
        except NotFound as exc:
            raise FailedPrecondition("order first") from exc

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.FAILED_PRECONDITION
    assert {error.details() for error in errors} == {"order first"}
    assert [SECRET in everything_in(error) for error in errors] == [False] * 4


@pytest.mark.parametrize(
    "exception", [DeadlineExceeded(SECRET, callee="/a/b on c"), TimeoutError(SECRET)], ids=["received", "own"]
)
async def test_a_timeout_after_our_own_deadline_is_deadline_exceeded(
    exception: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = []

    async def note(call: CallContext, proceed: Any) -> Any:
        call.add_done_callback(lambda context: outcomes.append((context.code(), context.details())))
        return await proceed()

    class Slow:
        @handler("Import")
        async def wait(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            # The caller's own timer and the cancel that follows it come at the same moment.
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                raise exception from None
            raise AssertionError

    async with serving(Slow(), source=KEEPER, interceptors=[note]) as running:
        error = await running.failure("Import", timeout=0.2)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: bool(outcomes), "the call has ended")
    assert outcomes == [(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")]
    assert SECRET not in caplog.text


async def test_abort_passes_untouched(caplog: pytest.LogCaptureFixture) -> None:
    async def act(context: CallContext) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "all gone", (("x-why", "fire"),))

    async def rich(context: CallContext) -> None:
        status = type("Rich", (), {})()
        status.code, status.details = grpc.StatusCode.ABORTED, "rich"
        status.trailing_metadata = (("grpc-status-details-bin", b"\x08\x0a"),)
        await context.abort_with_status(status)

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.DATA_LOSS
    for error in errors:
        assert error.details() == "all gone"
        assert tuple(error.trailing_metadata() or ()) == (("x-why", "fire"),)
    for error in await failures(rich):
        assert error.details() == "rich"
        assert tuple(error.trailing_metadata() or ()) == (("grpc-status-details-bin", b"\x08\x0a"),)
    assert not caplog.records


async def test_an_abort_that_is_swallowed_or_replaced_stands(caplog: pytest.LogCaptureFixture) -> None:
    async def swallow(context: CallContext) -> None:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.ABORTED, "meant")

    async def replace(context: CallContext) -> None:
        try:
            await context.abort(grpc.StatusCode.ABORTED, "meant")
        finally:
            raise ValueError(SECRET)

    for act in (swallow, replace):
        errors = await failures(act)
        assert the_code(errors) is grpc.StatusCode.ABORTED
        assert {error.details() for error in errors} == {"meant"}
        assert [SECRET in everything_in(error) for error in errors] == [False] * 4
    assert "raised after the status was sent" in caplog.text


async def test_a_code_set_before_an_exception_stands_and_the_text_stays_here() -> None:
    async def described(context: CallContext) -> None:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such ant")
        raise ValueError(SECRET)

    async def bare(context: CallContext) -> None:
        context.set_code(5)  # type: ignore[arg-type]  # grpc takes numbers too
        raise ValueError(SECRET)

    for act, details in ((described, "no such ant"), (bare, r"error, id [0-9a-f]{8}")):
        errors = await failures(act)
        assert the_code(errors) is grpc.StatusCode.NOT_FOUND
        for error in errors:
            assert re.fullmatch(details, error.details() or "")
            assert SECRET not in everything_in(error)


async def test_a_code_set_without_an_exception_needs_no_response() -> None:
    class Keeper:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such ant")
            return None

    async with serving(Keeper()) as running:
        error = await running.failure("Import")
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such ant")


@pytest.mark.parametrize("answer", [pb.Query(name=SECRET), SECRET, 7], ids=["message", "text", "number"])
async def test_a_response_of_the_wrong_type_is_internal_and_the_log_says_what_and_where(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: CallContext) -> Any:
        return answer

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.INTERNAL
    assert [SECRET in everything_in(error) for error in errors] == [False] * 4
    found = "pymicro.tests.zoo.Query" if isinstance(answer, pb.Query) else type(answer).__name__
    for record in caplog.records:
        assert "test_handler_errors.py:" in record.getMessage()
        assert re.search(f"must answer pymicro.tests.zoo.(Animal|Tally), found {found}", record.getMessage())
    # grpc.aio itself may log of a loop that an earlier test closed.
    assert len([record for record in caplog.records if record.name.startswith("pymicro")]) == 4


async def test_a_handler_that_forgets_to_return_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    class Keeper:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            pb.Animal(name="lost")

    async with serving(Keeper()) as running:
        error = await running.failure("Import")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "found NoneType" in caplog.text


async def test_a_response_that_lacks_a_required_field_does_not_leak_its_name() -> None:
    class Strictness:
        @handler
        async def fill(self, request: strict_pb2.Form) -> strict_pb2.Form:
            return strict_pb2.Form(note=SECRET)

    async with serving(Strictness(), source=strict_pb2) as running:
        call = running.channel.unary_unary("/pymicro.tests.strict.Strictness/Fill")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(strict_pb2.Form(secret_field="x").SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret_field" not in everything_in(caught.value)
        # Nor does a request that lacks it.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert "secret_field" not in everything_in(caught.value)


@pytest.mark.parametrize("name", ["Import", "Watch", "Count", "Talk"])
async def test_a_request_that_does_not_parse_is_refused_without_a_traceback(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: CallContext) -> None: ...

    async with serving(all_shapes(act)) as running:
        path = f"/pymicro.tests.zoo.Keeper/{name}"
        for junk in (b"\xff\xff\xff", b"\x0a\x05ab"):
            error = await _sent(running, name, path, junk)
            assert error.code() is grpc.StatusCode.INTERNAL
            kind = "Query" if name == "Watch" else "Animal"
            assert error.details() == f"the request does not parse as pymicro.tests.zoo.{kind}"
    assert not caplog.records


async def _sent(running: Running, name: str, path: str, raw: bytes) -> grpc.aio.AioRpcError:
    if name in ("Count", "Talk"):
        call = running.channel.stream_unary(path)(timeout=20)
        await call.write(raw)
    else:
        call = running.channel.unary_unary(path)(raw, timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_response_over_the_limit_names_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    async def act(context: CallContext) -> Any:
        return pb.Animal(name="x" * 70_000) if "Count" not in context.method else None

    async with serving(all_shapes(act), config=Config(max_sent_message_size=1 << 16)) as running:
        for name in ("Import", "Watch", "Talk"):
            error = await running.failure(name)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "max_sent_message_size of 65536" in (error.details() or "")
            assert "70004 bytes" in (error.details() or "")
            assert isinstance(from_aio(error), ResourceExhausted)
    assert "max_sent_message_size" in caplog.text


@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
async def test_the_limit_for_what_is_received_does_not_hold_for_responses(
    interceptors: Callable[[], list[Any]],
) -> None:
    async def act(context: CallContext) -> Any:
        return pb.Animal(name="x" * 70_000) if "Count" not in context.method else None

    config = Config(max_message_size=1 << 16)
    async with serving(all_shapes(act), config=config, interceptors=interceptors()) as running:
        for name in ("Import", "Watch", "Talk"):
            assert (await running.ask(name))[-1] == "x" * 70_000


async def test_a_request_over_the_limit_is_refused_and_never_looks_like_an_end() -> None:
    seen = {"requests": 0, "ends": 0}

    class Counting:
        @handler("Count")
        async def count(self, requests: AsyncIterator[pb.Animal]) -> pb.Tally:
            async for _ in requests:
                seen["requests"] += 1
            seen["ends"] += 1
            return pb.Tally()

        @handler("Import")
        async def import_(self, request: pb.Animal) -> pb.Animal:
            return request

    async with serving(Counting(), source=KEEPER, config=Config(max_message_size=1 << 16)) as running:
        assert await running.ask("Import", "x" * 60_000) == ["x" * 60_000]
        for name in ("Import", "Count"):
            error = (
                await running.failure(name, "small", "x" * 70_000, ends=False)
                if name == "Count"
                else (await running.failure(name, "x" * 70_000))
            )
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await eventually(lambda: running.server.in_progress == 0, "the handler was cancelled")
    assert seen == {"requests": 1, "ends": 0}


LONG = {
    "ascii": "x" * 100_000,
    "unicode": "🐜" * 30_000,
    "percent": "%" * 30_000,
    "surrogates": "\udcff name" * 10,
    "control": "\x00\n" * 3000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
async def test_any_text_arrives_cut_to_what_callers_accept(text: str) -> None:
    async def raised(context: CallContext) -> None:
        raise Aborted(text)

    async def aborted(context: CallContext) -> None:
        await context.abort(grpc.StatusCode.ABORTED, text)

    async def set_before(context: CallContext) -> None:
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details(text)

    for act in (raised, aborted, set_before):
        errors = await failures(act)
        assert the_code(errors) is grpc.StatusCode.ABORTED
        for error in errors:
            found = error.details() or ""
            assert found.removesuffix("...")[:10] == text.encode("utf-8", "replace").decode()[:10]
            assert len(found) > 50


async def test_details_and_trailers_that_are_too_large_are_left_out_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    big = error_details_pb2.DebugInfo(detail="x" * 20_000)

    async def act(context: CallContext) -> None:
        raise Aborted(
            "no", error_details=[big], trailing_metadata=[("x-big", "y" * 20_000), ("x-small", "s")]
        )

    errors = await failures(act)
    assert the_code(errors) is grpc.StatusCode.ABORTED
    for error in errors:
        assert tuple(error.trailing_metadata() or ()) == (("x-small", "s"),)
    assert "too large or illegal, so not sent: x-big, error_details" in caplog.text


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("x-ümlaut", "v"), "metadata key 'x-ümlaut'"),
        (("x key", "v"), "metadata key 'x key'"),
        (("x-text", "ü"), "name it x-text-bin"),
        (("x-raw-bin", "text"), "its value must be bytes"),
        (("x-long", "x" * 8000), "callers refuse more than 8 KiB"),
    ],
)
async def test_metadata_that_cannot_be_sent_is_an_error_where_it_is_set(
    pair: tuple[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """grpc-core would drop the whole batch, the status with it, and the caller would wait for ever."""

    async def trailing(context: CallContext) -> None:
        context.set_trailing(*pair)

    async def many(context: CallContext) -> None:
        context.set_trailing_metadata([pair])

    for act in (trailing, many):
        assert the_code(await failures(act, timeout=5)) is grpc.StatusCode.INTERNAL
        assert words in caplog.text
        caplog.clear()
    if pair[0] == "x-long":
        return

    async def initial(context: CallContext) -> None:
        await context.send_initial_metadata([pair])

    async def aborting(context: CallContext) -> None:
        await context.abort(grpc.StatusCode.ABORTED, "", [pair])

    for act in (initial, aborting):
        async with serving(all_shapes(act)) as running:
            assert (await running.failure("Import", timeout=5)).code() is grpc.StatusCode.INTERNAL
        assert words in caplog.text

    async def raising(context: CallContext) -> None:
        raise Aborted("still arrives", trailing_metadata=[pair])

    assert {error.details() for error in await failures(raising, timeout=5)} == {"still arrives"}


class Garbled(NotFound):
    """A user's own status, with details that are no text."""

    def details(self) -> Any:
        return KeyError(SECRET)


def changed_later() -> NotFound:
    error = NotFound("no")
    error.error_details = (SECRET,)  # type: ignore[assignment]
    return error


def on_context(name: str, *given: Any) -> Act:
    async def act(context: CallContext) -> None:
        waits = getattr(context, name)(*given)
        if waits is not None:
            await waits

    return act


def status_of(details: Any) -> Any:
    status = type("Status", (), {})()
    status.code, status.details, status.trailing_metadata = grpc.StatusCode.ABORTED, details, ()
    return status


NO_TEXT = "TypeError: the details of a status must be text (str), found KeyError"
NO_MESSAGES = "TypeError: error_details must be a sequence of protobuf messages, found "
NO_PAIRS = "TypeError: metadata is pairs of key and value, and not "
INFO: Any = error_details_pb2.ErrorInfo(reason="R")
ABORTED = grpc.StatusCode.ABORTED
UNSENDABLE: dict[str, tuple[Act, str]] = {
    "raised": (raising(lambda: NotFound(KeyError(SECRET))), NO_TEXT),  # type: ignore[arg-type]
    "overridden": (raising(lambda: Garbled("fine")), NO_TEXT),
    "aborted": (on_context("abort", ABORTED, KeyError(SECRET)), NO_TEXT),
    "abort_with_status": (on_context("abort_with_status", status_of(KeyError(SECRET))), NO_TEXT),
    "set_details": (on_context("set_details", KeyError(SECRET)), NO_TEXT),
    "texts": (raising(lambda: NotFound("no", error_details=[SECRET])), NO_MESSAGES),  # type: ignore[list-item]
    "one text": (raising(lambda: NotFound("no", error_details=SECRET)), NO_MESSAGES),  # type: ignore[arg-type]
    "one message": (raising(lambda: NotFound("no", error_details=INFO)), NO_MESSAGES),
    "changed later": (raising(changed_later), "Error: "),
    "required field": (
        raising(lambda: NotFound("no", error_details=[strict_pb2.Form(note=SECRET)])),
        "EncodeError: Message pymicro.tests.strict.Form is missing required fields: secret_field",
    ),
    "trailing number": (
        on_context("set_trailing_metadata", [("x-a", 7)]),
        "TypeError: metadata x-a must be text, not int",
    ),
    "trailing key": (
        on_context("set_trailing_metadata", [(b"x-a", "1")]),
        "TypeError: metadata key b'x-a' is no text",
    ),
    "trailing dict": (on_context("set_trailing_metadata", {"x-a": "1"}), f"{NO_PAIRS}str"),
    "trailing of abort": (on_context("abort", ABORTED, "", {"ab": "1"}), f"{NO_PAIRS}str"),
    "initial number": (
        on_context("send_initial_metadata", [("x-a", 7)]),
        "TypeError: metadata x-a must be text, not int",
    ),
    "initial triple": (
        on_context("send_initial_metadata", [("x-a", "1", "2")]),
        f"{NO_PAIRS}tuple",
    ),
}


@pytest.mark.parametrize("interceptors", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize(("act", "words"), UNSENDABLE.values(), ids=UNSENDABLE)
async def test_a_status_that_cannot_be_sent_is_internal_and_the_log_says_what_is_wrong(
    act: Act, words: str, interceptors: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    errors = await failures(act, interceptors())
    assert the_code(errors) is grpc.StatusCode.INTERNAL
    for error in errors:
        assert SECRET not in everything_in(error)
        match = re.fullmatch(r"internal error, id ([0-9a-f]{8})", error.details() or "")
        assert match
        (record,) = [r for r in caplog.records if match[1] in r.getMessage()]
        assert record.exc_info
        assert words in logging.Formatter().format(record)
    # grpc.aio itself may log of a loop that an earlier test closed.
    assert len([record for record in caplog.records if record.name.startswith("pymicro")]) == 4


async def test_details_that_are_none_are_the_empty_text() -> None:
    for act in (
        raising(lambda: Aborted(None)),  # type: ignore[arg-type]
        on_context("abort", ABORTED, None),
        on_context("abort_with_status", status_of(None)),
    ):
        errors = await failures(act)
        assert the_code(errors) is ABORTED
        assert [error.details() for error in errors] == [""] * 4


async def test_a_raised_statuss_metadata_that_cannot_be_sent_is_left_out_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs: Any = [(7, "x"), ("x-number", 7), ("x key", "v"), ("x-fine", "1")]
    errors = await failures(raising(lambda: Aborted("no", trailing_metadata=pairs)))
    assert the_code(errors) is ABORTED
    for error in errors:
        assert tuple(error.trailing_metadata() or ()) == (("x-fine", "1"),)
    assert [r.getMessage().rpartition(": ")[2] for r in caplog.records] == ["7, x-number, x key"] * 4


async def test_abort_with_ok_is_an_error_of_the_handler() -> None:
    async def act(context: CallContext) -> None:
        await context.abort(grpc.StatusCode.OK, "fine")

    assert the_code(await failures(act, timeout=5)) is grpc.StatusCode.INTERNAL


async def test_an_exception_of_a_thread_is_treated_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Keeper:
        @handler
        def import_(self, request: pb.Animal) -> pb.Animal:
            if request.name == "not found":
                raise NotFound("no such ant")
            raise {"stop": StopIteration, "exit": SystemExit}.get(request.name, ValueError)(SECRET)

    async with serving(Keeper()) as running:
        assert (await running.failure("Import", "not found")).details() == "no such ant"
        for name in ("other", "stop", "exit"):
            error = await running.failure("Import", name)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert SECRET not in everything_in(error)
    assert caplog.text.count(f"ValueError: {SECRET}") == 1


async def test_a_failing_clean_up_does_not_hide_why_the_stream_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = []

    class Keeper:
        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            try:
                while True:
                    yield pb.Animal(name="x" * 70_000)
            finally:
                ended.append(1)
                raise ValueError(SECRET)

    async with serving(Keeper(), config=Config(max_sent_message_size=1 << 16)) as running:
        error = await running.failure("Watch")
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ended
    assert "cleaning up after" in caplog.text
