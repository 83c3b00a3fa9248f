"""The access log: a line for each call that ended, whatever its shape, and none on the call's path."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import re
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pymicro.runtime.logs import set_up
from pymicro.serving.call import access_log
from pymicro.serving.call.access_log import AccessLog
from pymicro.settings.access import AccessRule
from pymicro.settings.config import Config
from tests.bare_logging import bare_logging
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import ZOO, eventually, serving
from tests.serving.test_admission import AROUND, KEEPER, SHAPES, Waiting
from tests.serving.test_recording import Moody
from tests.serving.test_servicers import Servicer

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00")
ALL = Config(access_log="all")


class Lines(logging.Handler):
    """What the access log wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def only(self) -> Any:
        (record,) = self.records
        return record

    @property
    def methods(self) -> list[str]:
        return [record.method.rpartition("/")[2] for record in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    logger = logging.getLogger("pymicro.access")
    logger.addHandler(found)
    yield found
    logger.removeHandler(found)


@AROUND
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("word", "status"), [("ant", "OK"), ("raise", "INTERNAL"), ("refuse", "NOT_FOUND")])
async def test_a_call_of_each_shape_is_one_line(
    lines: Lines, around: list[Any], shape: str, word: str, status: str
) -> None:
    async with serving(Moody(), source=KEEPER, interceptors=around, config=ALL) as ran:
        if status == "OK":
            await ran.ask(shape, word, metadata=(TRACEPARENT,))
        else:
            await ran.failure(shape, word, ends=False, metadata=(TRACEPARENT,))
        await eventually(lambda: len(lines.records) > 0, "the line is written")
    line = lines.only()
    assert (line.method, line.status, line.trace_id) == (f"{ZOO[1:]}/{shape}", status, TRACE)
    assert 0 <= line.ms < 60_000
    assert line.peer
    # Nobody adds up the messages of a stream, and foreign interceptors get messages, not bytes.
    foreign = any(isinstance(one, grpc.aio.ServerInterceptor) for one in around)
    asks = shape in ("Import", "Watch") and not foreign
    answers = shape in ("Import", "Count") and not foreign and status == "OK"
    assert line.request_bytes == (len(pb.Animal(name=word).SerializeToString()) if asks else None)
    assert (line.response_bytes is not None) is answers
    text = rf"{ZOO}/{shape} {status} in \d+\.\d ms from \S+(, \d+ B \w+)*, trace {TRACE}"
    assert re.fullmatch(text, line.getMessage())


async def test_a_generated_servicer_has_lines_too(lines: Lines) -> None:
    def add(server: Any) -> None:
        zoo_pb2_grpc.add_KeeperServicer_to_server(Servicer(), server)

    async with serving(add=add, config=ALL) as ran:
        await ran.ask("Import")
        await ran.ask("Watch")
        await ran.ask("Count")
        # Where a write meets the end, grpc.aio makes up a code for its caller: the line has the true one.
        await ran.failure("Talk")
        assert (await ran.failure("Import", "code")).code() is grpc.StatusCode.NOT_FOUND
    assert [(record.method.rpartition("/")[2], record.status) for record in lines.records] == [
        ("Import", "OK"),
        ("Watch", "OK"),
        ("Count", "OK"),
        ("Talk", "UNIMPLEMENTED"),
        ("Import", "NOT_FOUND"),
    ]


@AROUND
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_whose_caller_has_gone_has_a_line(lines: Lines, around: list[Any], shape: str) -> None:
    waiting = Waiting()
    async with serving(waiting, source=KEEPER, interceptors=around, config=ALL) as ran:
        asking = asyncio.ensure_future(ran.ask(shape))
        await eventually(lambda: waiting.ran == [shape], "the handler runs")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: len(lines.records) > 0, "the line is written")
    assert (lines.only().status, lines.only().peer != "unknown") == ("CANCELLED", True)


async def test_a_context_that_does_not_tell_its_peer_costs_no_call(lines: Lines) -> None:
    class Bare:
        """All that an interceptor's author thought of."""

        def __init__(self, context: Any) -> None:
            self._context = context

        def __getattr__(self, name: str) -> Any:
            if name == "peer":
                raise AttributeError(name)
            return getattr(self._context, name)

    class Wrapping(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            given = await continuation(details)

            async def answer(request: Any, context: Any) -> Any:
                return await given.unary_unary(request, Bare(context))

            return grpc.unary_unary_rpc_method_handler(
                answer, given.request_deserializer, given.response_serializer
            )

    async with serving(Moody(), source=KEEPER, interceptors=[Wrapping()], config=ALL) as ran:
        assert await ran.ask("Import") == ["ant"]
    assert (lines.only().status, lines.only().peer) == ("OK", "unknown")


async def test_calls_that_no_handler_sees_have_lines(lines: Lines) -> None:
    waiting = Waiting()
    config = Config(access_log="all", max_concurrent_calls=1)
    async with serving(waiting, source=KEEPER, config=config) as ran:
        first = asyncio.ensure_future(ran.ask("Import"))
        await eventually(lambda: waiting.ran == ["Import"], "the handler runs")
        assert (await ran.failure("Import")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError):
            await ran.channel.unary_unary("/no.Such/" + "x" * 1000)(b"", metadata=(TRACEPARENT,))
        waiting.go.set()
        await first
    full, unknown, ok = lines.records
    assert (full.status, full.ms) == ("RESOURCE_EXHAUSTED", 0.0)
    assert (unknown.status, unknown.trace_id) == ("UNIMPLEMENTED", TRACE)
    assert len(unknown.method) < access_log.LONGEST
    assert ok.status == "OK"


async def test_health_has_no_lines(lines: Lines) -> None:
    async with serving(Moody(), source=KEEPER, config=ALL) as ran:
        await ran.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
    assert lines.records == []


async def test_it_is_off_by_default(lines: Lines) -> None:
    async with serving(Moody(), source=KEEPER) as ran:
        await ran.ask("Import")
    assert lines.records == []
    assert "pymicro-access-log" not in {thread.name for thread in threading.enumerate()}


async def test_slow_calls_have_a_line_and_others_none(lines: Lines) -> None:
    waiting = Waiting()
    async with serving(waiting, source=KEEPER, config=Config(access_log="slow:1ms")) as ran:
        asking = asyncio.ensure_future(ran.ask("Import"))
        await eventually(lambda: waiting.ran == ["Import"], "the handler runs")
        began = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() - began > 0.002, "it takes long enough")
        waiting.go.set()
        await asking
    assert lines.only().ms >= 1.0
    fast = AccessLog(AccessRule.of("slow:500ms"))
    assert [fast.wants(seconds) for seconds in (0.0, 0.499, 0.5, 9.0)] == [False, False, True, True]


def test_a_share_of_the_calls_is_chosen_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log.random, "random", random.Random(7).random)
    some = AccessLog(AccessRule.of("sample:0.1,slow:1s"))
    assert 900 < sum(some.wants(0.001) for _ in range(10_000)) < 1100
    assert all(some.wants(1.0) for _ in range(100))
    every = AccessLog(AccessRule.of("all"))
    assert all(every.wants(0.0) for _ in range(100))


class Blocked(Lines):
    """A handler that writes nothing until it may, as a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.begun.set()
        assert self.go.wait(60)
        super().emit(record)


async def test_a_log_that_cannot_be_written_holds_up_no_call_and_says_how_many_lines_were_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_log, "MOST", 10)
    blocked = Blocked()
    logger = logging.getLogger("pymicro.access")
    logger.addHandler(blocked)
    try:
        async with serving(Moody(), source=KEEPER, config=ALL) as ran:
            await ran.ask("Import")
            await eventually(blocked.begun.is_set, "the first line is being written")
            for _ in range(50):
                assert await ran.ask("Import") == ["ant"]
            assert blocked.records == []
            blocked.go.set()
    finally:
        blocked.go.set()
        logger.removeHandler(blocked)
    *written, dropped = blocked.records
    assert len(written) == 11
    assert dropped.getMessage() == "access_log: 40 calls have no line, since more ended than could be written"


async def test_a_handler_of_the_program_that_raises_costs_its_line_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Lines):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if len(self.records) == 1:
                raise OSError("no space left")

    broken = Broken()
    logger = logging.getLogger("pymicro.access")
    logger.addHandler(broken)
    try:
        async with serving(Moody(), source=KEEPER, config=ALL) as ran:
            await ran.ask("Import")
            await ran.ask("Watch")
    finally:
        logger.removeHandler(broken)
    assert broken.methods == ["Import", "Watch"]
    assert "a line of the access log could not be written" in caplog.text


@pytest.mark.parametrize("form", ["json", "human"])
async def test_a_line_has_the_form_of_the_rest_of_the_log_whatever_its_level(form: str) -> None:
    stream = io.StringIO()
    config = Config(access_log="all", log_format=form, log_level="error")
    with bare_logging():
        set_up(config, stream)
        async with serving(Moody(), source=KEEPER, config=config) as ran:
            await ran.ask("Import", metadata=(TRACEPARENT,))
    (line,) = stream.getvalue().splitlines()
    if form == "json":
        found = json.loads(line)
        assert {key: found[key] for key in ("level", "logger", "method", "status", "trace_id")} == {
            "level": "info",
            "logger": "pymicro.access",
            "method": f"{ZOO[1:]}/Import",
            "status": "OK",
            "trace_id": TRACE,
        }
        assert found["request_bytes"] == found["response_bytes"] == 5
        assert found["ms"] >= 0
        assert found["peer"]
    else:
        assert re.fullmatch(
            rf"\d\d:\d\d:\d\d\.\d{{3}} info +access: {ZOO}/Import OK in \d+\.\d ms from \S+, "
            rf"5 B in, 5 B out, trace {TRACE}",
            line,
        )


async def test_lines_that_wait_are_written_before_a_stop_ends(lines: Lines) -> None:
    async with serving(Moody(), source=KEEPER, config=ALL) as ran:
        for _ in range(20):
            await ran.ask("Import")
    assert lines.methods == ["Import"] * 20
    moments = [record.created for record in lines.records]
    assert moments == sorted(moments)
    assert len(set(moments)) > 1  # each is about its own call, and not about when all were written
