"""Unmodified synchronous stubs over pymicro: all shapes, their errors, futures and streams."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import pymicro
from pymicro.sync import Client, SyncCall, SyncStream
from pymicro.sync.under_way import AHEAD
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc as rpc
from tests.sync.conftest import Served, eventually, live

ANT = pb.Animal(name="ant")


def animals(*names: str) -> Any:
    return (pb.Animal(name=name) for name in names)


# The four shapes


def test_all_shapes_are_answered(stub: Any) -> None:
    assert stub.Import(ANT).name == "ANT"
    assert [one.legs for one in stub.Watch(pb.Query(name="n:40"))] == list(range(40))
    assert stub.Count(animals("ant", "bee", "cat")).count == 3
    assert [one.name for one in stub.Talk(animals("ant", "bee"))] == ["ANT", "BEE"]


def test_the_call_comes_with_the_response(stub: Any) -> None:
    reply, call = stub.Import.with_call(pb.Animal(name="metadata"), metadata=[("Who", "Ada")])
    assert "who=Ada" in reply.names
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.Future)
    assert call.code() is grpc.StatusCode.OK
    assert call.details() == ""
    (first,) = (pair for pair in call.initial_metadata() if pair.key == "first")
    assert first.value == "one"
    assert ("last", "two") in call.trailing_metadata()
    assert not call.is_active()
    assert call.done()
    assert not call.running()
    assert call.result() is reply
    assert call.exception() is None
    assert call.traceback() is None
    tally, call = stub.Count.with_call(animals("ant"))
    assert (tally.count, call.code()) == (1, grpc.StatusCode.OK)
    assert call.node.service == "zoo"
    assert call.attempts == 1
    assert repr(call).endswith(", done>")


def test_futures_are_answered(stub: Any) -> None:
    futures = [stub.Import.future(pb.Animal(name=name)) for name in ("ant", "bee")]
    assert [future.result(timeout=20).name for future in futures] == ["ANT", "BEE"]
    future = stub.Count.future(animals("ant"))
    assert future.result().count == 1
    assert future.code() is grpc.StatusCode.OK


# Errors


def test_an_error_is_what_code_for_grpc_and_code_for_pymicro_catch(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Import(pb.Animal(name="fail"))
    error: Any = raised.value
    assert isinstance(error, pymicro.NotFound)
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such animal"
    assert ("kind", "rare") in error.trailing_metadata()
    assert [pair.value for pair in error.trailing_metadata() if pair.key == "kind"] == ["rare"]
    assert error.callee == "zoo/pymicro.tests.zoo.Keeper/Import"
    assert str(error).startswith("NOT_FOUND: no such animal (calling zoo/")
    assert not error.is_active()
    assert not error.cancel()
    assert not error.add_callback(lambda: None)
    assert error.exception() is error
    with pytest.raises(pymicro.NotFound):
        error.result()
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is pymicro.NotFound
        assert same.details() == "no such animal"
        assert ("kind", "rare") in tuple(same.trailing_metadata())


@pytest.mark.parametrize("name", ["with_call", "future"])
def test_an_error_comes_in_every_way_of_calling(stub: Any, name: str) -> None:
    with pytest.raises(pymicro.NotFound):
        getattr(stub.Import, name)(pb.Animal(name="fail")).result()
    future = stub.Import.future(pb.Animal(name="fail"))
    assert isinstance(future.exception(), pymicro.NotFound)
    assert future.code() is grpc.StatusCode.NOT_FOUND
    assert future.details() == "no such animal"
    assert ("kind", "rare") in future.trailing_metadata()
    assert not future.cancelled()


def test_an_error_comes_after_the_responses_of_a_stream(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="fail:3"))
    legs = []
    with pytest.raises(pymicro.NotFound) as raised:
        legs.extend(one.legs for one in call)
    assert legs == [0, 1, 2]
    assert raised.value.details() == call.details() == "no more animals"
    assert call.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(pymicro.NotFound):
        next(call)
    with pytest.raises(pymicro.NotFound):
        call.result()


def test_nobody_is_there(client: Client) -> None:
    stub = rpc.KeeperStub(client.channel("aquarium"))
    with pytest.raises(grpc.RpcError) as raised:
        stub.Import(ANT)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert "no node for aquarium" in raised.value.details()  # type: ignore[attr-defined]


def test_what_cannot_be_sent_is_told_at_once(client: Client, stub: Any) -> None:
    for call in (stub.Import, stub.Import.future, stub.Import.with_call, stub.Watch):
        with pytest.raises(TypeError, match="and was given a dict, which cannot be sent"):
            call({"name": "ant"})
    with pytest.raises(TypeError, match="and was given a dict, which cannot be sent"):
        stub.Count(iter([{"name": "ant"}]))
    with pytest.raises(TypeError):
        stub.Count(None)
    with pytest.raises(pymicro.InvalidArgument, match="bad"):
        stub.Import(ANT, metadata=[("bad key", "x")])


# Deadlines, and what else a call is given


def test_deadlines(client: Client, stub: Any) -> None:
    began = time.monotonic()
    with pytest.raises(pymicro.DeadlineExceeded) as raised:
        stub.Import(pb.Animal(name="hang:deadline"), timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 10
    with pytest.raises(pymicro.DeadlineExceeded):
        for _ in stub.Watch(pb.Query(name="hang:deadline"), timeout=0.2):
            pass
    # As over the asynchronous client, unary calls have a default.
    assert 2000 < stub.Import(pb.Animal(name="remaining")).legs < 6000
    endless = rpc.KeeperStub(client.channel("zoo", timeout=None))
    assert endless.Import(pb.Animal(name="remaining")).legs == -1
    future = stub.Import.future(pb.Animal(name="hang:deadline"), timeout=30)
    eventually(lambda: future.node, "it has begun")
    assert 20 < future.time_remaining() <= 30
    assert future.cancel()


def test_options_of_a_call(stub: Any) -> None:
    gzip = grpc.Compression.Gzip
    assert stub.Import(ANT, None, (("a", "b"),), None, True, gzip).name == "ANT"
    assert stub.Import(ANT, wait_for_ready=True, compression=gzip, timeout=20).name == "ANT"
    assert stub.Count(request_iterator=animals("ant"), compression=gzip).count == 1
    assert next(iter(stub.Talk(request_iterator=animals("ant"), timeout=20))).name == "ANT"


def test_who_waits_for_ready_waits_for_a_node(served: Served, tmp_path: Any) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o700)
    settings = {**served.settings, "registry_address": str(folder), "client_first_wait": 0.0}
    with Client(**settings) as client:
        stub = rpc.KeeperStub(client.channel("zoo"))
        with pytest.raises(pymicro.Unavailable):
            stub.Import(ANT)
        with pytest.raises(pymicro.DeadlineExceeded):
            stub.Import(ANT, wait_for_ready=True, timeout=0.2)


def test_initial_metadata_comes_before_the_end(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="hang:initial"))
    assert ("first", "one") in call.initial_metadata()
    assert call.is_active()
    assert call.cancel()


# Streams of responses


def test_a_stream_is_cancelled(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="hang:cancel"))
    assert isinstance(call, SyncStream)
    assert next(call).name == "first"
    eventually(lambda: live(stub, "cancel") == 1, "the service works on it")
    assert call.is_active()
    assert call.running()
    assert call.cancel()
    assert not call.cancel()
    assert call.cancelled()
    assert call.done()
    assert call.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    with pytest.raises(grpc.FutureCancelledError):
        call.exception()
    eventually(lambda: live(stub, "cancel") == 0, "the service has heard of it")


def test_a_stream_that_nobody_reads_any_more_is_cancelled(stub: Any) -> None:
    def first() -> Any:
        for one in stub.Watch(pb.Query(name="hang:dropped")):
            eventually(lambda: live(stub, "dropped") == 1, "the service works on it")
            return one
        raise AssertionError("no response")

    assert first().name == "first"
    gc.collect()
    eventually(lambda: live(stub, "dropped") == 0, "the service has heard of it")


def test_a_slow_reader_holds_the_stream_up(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="endless"))
    messages = call._call.messages
    eventually(lambda: messages.qsize() >= AHEAD, "some responses have come")
    for _ in range(10 * AHEAD):
        assert next(call).name == "again"
        assert messages.qsize() <= AHEAD + 1
    assert call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    gc.collect()


def test_a_stream_that_is_full_still_ends_with_its_deadline(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="endless"), timeout=0.5)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(pymicro.DeadlineExceeded):
        for _ in call:
            pass


def test_several_threads_read_one_stream(stub: Any) -> None:
    call = stub.Watch(pb.Query(name="n:500"))
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda _: [one.legs for one in call], range(4))
    assert sorted(legs for part in parts for legs in part) == list(range(500))


# Streams of requests


def test_requests_that_are_changed_after_they_were_yielded_arrive_as_they_were(stub: Any) -> None:
    def requests() -> Any:
        message = pb.Animal()
        for legs in range(50):
            message.legs = legs
            yield message

    assert [one.legs for one in stub.Talk(requests())] == list(range(50))


def test_requests_may_wait_for_responses(stub: Any) -> None:
    answered = threading.Semaphore()

    def requests() -> Any:
        for legs in range(20):
            assert answered.acquire(timeout=20)
            yield pb.Animal(legs=legs)

    legs = []
    for one in stub.Talk(requests()):
        legs.append(one.legs)
        answered.release()
    assert legs == list(range(20))


def test_an_iterator_that_raises_ends_the_call_with_its_exception(stub: Any) -> None:
    def requests() -> Any:
        yield ANT
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as raised:
        stub.Count(requests())
    assert raised.traceback[-1].name == "requests"  # and nothing of pymicro's loop below it
    with pytest.raises(OSError, match="the disk is full"):
        list(stub.Talk(requests()))
    future = stub.Count.future(requests())
    assert isinstance(future.exception(), OSError)
    assert future.code() is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, StopAsyncIteration])
def test_an_iterator_that_raises_no_ordinary_exception_ends_its_call_only(
    stub: Any, kind: type[BaseException]
) -> None:
    def requests() -> Any:
        yield ANT
        raise kind

    with pytest.raises(RuntimeError, match=f"the iterator of requests raised {kind.__name__}"):
        stub.Count(requests())
    assert stub.Import(ANT).name == "ANT"


def test_the_iterator_is_closed_when_the_service_has_enough(stub: Any) -> None:
    closed = threading.Event()
    made = 0

    def requests() -> Any:
        nonlocal made
        try:
            while True:
                made += 1
                yield pb.Animal(name="enough" if made == 3 else "ant")
                if made > 3:
                    eventually(lambda: calls and calls[0].done(), "the answer is there")
        finally:
            closed.set()

    calls: list[Any] = []
    calls.append(stub.Count.future(requests()))
    assert calls[0].result().count == 2
    assert closed.wait(20)


def test_an_iterator_that_never_gives_anything_holds_nobody_up(stub: Any) -> None:
    go = threading.Event()

    def requests() -> Any:
        yield pb.Animal(name="enough")
        go.wait()
        yield ANT

    assert stub.Count(requests()).count == 0
    call = stub.Talk(requests())
    assert list(call) == []
    go.set()


def test_context_variables_reach_the_iterator(stub: Any) -> None:
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    who.set("ada")

    def requests() -> Any:
        yield pb.Animal(name=who.get())

    assert [one.name for one in stub.Talk(requests())] == ["ADA"]


# Futures and callbacks


def test_a_future_that_is_not_done(stub: Any) -> None:
    future = stub.Import.future(pb.Animal(name="hang:future"))
    assert isinstance(future, SyncCall)
    for wait in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            wait(timeout=0.01)
    assert not future.done()
    assert repr(future).endswith(", in progress>")
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(grpc.FutureCancelledError):
        future.result()
    eventually(lambda: live(stub, "future") == 0, "the service has heard of it")


def test_a_future_that_nobody_holds_is_cancelled_and_a_callback_holds_it(stub: Any) -> None:
    stub.Import.future(pb.Animal(name="hang:unheld"), timeout=100)
    gc.collect()
    eventually(lambda: live(stub, "unheld") == 0, "the service has heard of it")
    done = threading.Event()
    stub.Import.future(ANT).add_done_callback(lambda future: done.set())
    gc.collect()
    assert done.wait(20)


def test_callbacks_may_call_and_wait(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    names: list[Any] = []
    ended = threading.Event()

    def done(future: Any) -> None:
        names.append(future.result().name)
        names.append(stub.Import(pb.Animal(name="bee")).name)

    def raises(future: Any) -> None:
        raise ValueError("mine")

    future = stub.Import.future(ANT)
    future.add_done_callback(done)
    future.add_done_callback(raises)
    future.add_done_callback(lambda same: names.append(same is future))
    assert future.add_callback(ended.set) or future.done()
    if future.done():
        ended.set()
    assert ended.wait(20)
    eventually(lambda: len(names) == 3, "all were called")
    assert "a callback of zoo/pymicro.tests.zoo.Keeper/Import failed" in caplog.text
    # It has ended: one is called at once, the other never.
    future.add_done_callback(lambda same: names.append("at once"))
    assert names == ["ANT", "BEE", True, "at once"]
    assert not future.add_callback(ended.clear)
    assert ended.is_set()


def test_a_stream_calls_back_at_its_end(stub: Any) -> None:
    call, ended = stub.Watch(pb.Query(name="n:3")), threading.Event()
    call.add_callback(ended.set)
    assert len(list(call)) == 3
    if not call.done():
        assert ended.wait(20)
    assert call.result() is None


# Many threads


def test_32_threads(client: Client, stub: Any) -> None:
    start = threading.Barrier(32)

    def work(number: int) -> int:
        start.wait(60)
        for turn in range(10):
            name = f"{number}.{turn}"
            assert stub.Import(pb.Animal(name=name), timeout=60).name == name
            assert [one.legs for one in stub.Watch(pb.Query(name="n:20"), timeout=60)] == list(range(20))
            assert stub.Count(animals("ant", "bee"), timeout=60).count == 2
            assert [one.name for one in stub.Talk(animals(name), timeout=60)] == [name]
        return number

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(work, range(32))) == list(range(32))


def test_threads_open_one_client_together(served: Served) -> None:
    client = Client(**served.settings)
    stub = rpc.KeeperStub(client.channel("zoo"))
    start = threading.Barrier(32)

    def work(number: int) -> str:
        start.wait(60)
        return str(stub.Import(pb.Animal(name=str(number)), timeout=60).name)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(work, range(32))) == list(map(str, range(32)))
    loops = [one for one in threading.enumerate() if one.name == "pymicro sync clients"]
    assert len(loops) == 1
    client.close()


def test_a_log_that_is_cut_off_says_nothing(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of all this is worth a warning."""
    with caplog.at_level(logging.WARNING):
        call = stub.Watch(pb.Query(name="endless"))
        next(call)
        del call
        gc.collect()
        stub.Import.future(pb.Animal(name="hang:log")).cancel()
        stub.Import(ANT)
    # grpc.aio itself may speak of the loops of the tests before; the watchdog of a machine that is busy.
    ours = [record for record in caplog.records if record.name.startswith("pymicro")]
    assert not [record for record in ours if record.name != "pymicro.loop"]
