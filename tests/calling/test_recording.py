"""Each call of ours is counted once, with the status that its caller saw, and each attempt once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import pymicro
from pymicro.base.recorder import ClientMethodRecord, TargetRecord

from .backends import connected, count_down, greeter, hello, stub, until
from .flaky import NOT_STARTED, Refusal, flaky
from .test_call_state import odd

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
CANCELLED = grpc.StatusCode.CANCELLED.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]


def record(client: Any, service: str = "greeter") -> TargetRecord:
    found: TargetRecord = client.recorder.targets[service]
    return found


def counts(record: ClientMethodRecord) -> tuple[dict[int, int], dict[int, int]]:
    """Calls and attempts, by status."""
    return (
        {code: one.count for code, one in record.calls().items()},
        {code: one.count for code, one in record.attempts().items()},
    )


async def test_calls_of_each_shape_are_counted_once() -> None:
    async with greeter() as (client, _, _servers):
        greet = stub(client)
        for _ in range(3):
            await greet.SayHello(hello())
            assert len([one async for one in greet.CountDown(count_down(2))]) == 2
            await greet.GreetAll(iter([hello("a"), hello("b")]))
            call = greet.Chat()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
        methods = record(client).methods
        assert {path.rpartition("/")[2]: counts(one) for path, one in methods.items()} == {
            name: ({0: 3}, {0: 3}) for name in ("SayHello", "CountDown", "GreetAll", "Chat")
        }
        assert all(one.started == 3 for one in methods.values())


async def test_the_status_is_the_one_that_the_caller_saw() -> None:
    async with greeter() as (client, _, (server,)):
        greet = stub(client)
        with pytest.raises(grpc.aio.AioRpcError):
            await greet.SayHello(hello("fail"))
        with pytest.raises(grpc.aio.AioRpcError):
            await greet.SayHello(hello("wait"), timeout=0.05)
        with pytest.raises(grpc.aio.AioRpcError):
            await greet.SayHello(hello(), timeout=0)
        call = greet.SayHello(hello("wait"))
        await server.until(lambda: server.running == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert counts(record(client).method("/greeter.v1.Greeter/SayHello")) == (
            {NOT_FOUND: 1, DEADLINE_EXCEEDED: 2, CANCELLED: 1},
            {NOT_FOUND: 1, DEADLINE_EXCEEDED: 1, CANCELLED: 1},
        )
        assert record(client).method("/greeter.v1.Greeter/SayHello").started == 3


INTERNAL = grpc.StatusCode.INTERNAL.value[0]


@pytest.mark.parametrize("how", ["await", "late", "code", "callback", "dropped"])
@pytest.mark.parametrize("method", ["SayHello", "GreetAll"])
async def test_a_response_that_cannot_be_read_counts_as_what_the_caller_sees(how: str, method: str) -> None:
    async with odd() as client:
        found = record_of(client, method)
        request = hello() if method == "SayHello" else iter([hello()])
        call = getattr(stub(client), method)(request)
        if how == "await":
            with pytest.raises(pymicro.Internal):
                await call
        elif how == "late":
            await until(call.done)
            assert counts(found) == ({}, {})  # nobody has seen any status
            with pytest.raises(pymicro.Internal):
                await call
        elif how == "code":
            assert await call.code() is grpc.StatusCode.INTERNAL
        elif how == "callback":
            told = asyncio.Event()
            call.add_done_callback(lambda _: told.set())
            await told.wait()
        else:
            await until(call.done)
            del call
            # Nobody has read the response, so it may as well have been sound.
            await until(lambda: gc.collect() >= 0 and counts(found) == ({0: 1}, {0: 1}))
            return
        # grpc-core may hand on the response before the status that came behind it.
        await until(lambda: counts(found) == ({INTERNAL: 1}, {INTERNAL: 1}))
        assert found.started == 1
        del call
        gc.collect()
        assert counts(found) == ({INTERNAL: 1}, {INTERNAL: 1})


async def test_a_response_in_a_stream_that_cannot_be_read_counts_as_what_the_caller_sees() -> None:
    async with odd() as client:
        with pytest.raises(pymicro.Internal):
            async for _ in stub(client).CountDown(count_down(3)):
                pass
        assert counts(record_of(client, "CountDown")) == ({INTERNAL: 1}, {INTERNAL: 1})


async def test_a_call_whose_waiter_goes_at_its_end_is_counted_all_the_same() -> None:
    async with greeter() as (client, _, _servers):
        for _ in range(20):
            call = stub(client).SayHello(hello())
            waiting = asyncio.ensure_future(waited(call))
            await until(call.done)
            waiting.cancel()
            await asyncio.wait([waiting])
            del call
        gc.collect()
        calls, attempts = counts(record_of(client, "SayHello"))
        assert (sum(calls.values()), sum(attempts.values())) == (20, 20)


async def waited(call: Any) -> Any:
    return await call


def record_of(client: Any, method: str) -> ClientMethodRecord:
    found: ClientMethodRecord = client.recorder.target("greeter").method(f"/greeter.v1.Greeter/{method}")
    return found


async def test_requests_that_fail_end_the_call_with_unknown() -> None:
    async def source() -> AsyncIterator[Any]:
        yield hello()
        raise LookupError("row 2")

    async with greeter() as (client, _, _servers):
        with pytest.raises(LookupError):
            await stub(client).GreetAll(source())
        calls, _ = counts(record(client).method("/greeter.v1.Greeter/GreetAll"))
        assert calls == {UNKNOWN: 1}


async def test_a_retried_call_is_one_call_and_two_attempts() -> None:
    async with flaky(3) as nodes:
        nodes.refuse = lambda number: Refusal(trailers=NOT_STARTED) if number == 0 else None
        await nodes.method()(b"")
        await nodes.method()(b"")
        found = record(nodes.client, "t").method("/t.T/Get")
        assert counts(found) == ({0: 2}, {UNAVAILABLE: 1, 0: 2})
        assert found.started == 3
        assert found.retries.count == 1
        assert found.retries.counts[0] == 1
        together = sum(one.total for one in found.tries.values())
        assert 0 < together <= found.several[0].total


async def test_a_call_that_fails_on_all_nodes_has_as_many_attempts_as_it_made() -> None:
    async with flaky(3, client_retries=2) as nodes:
        nodes.refuse = lambda _: Refusal(trailers=NOT_STARTED)
        with pytest.raises(grpc.aio.AioRpcError):
            await nodes.method()(b"")
        found = record(nodes.client, "t").method("/t.T/Get")
        assert counts(found) == ({UNAVAILABLE: 1}, {UNAVAILABLE: 3})
        assert found.retries.total == 2


async def test_retries_that_the_budget_forbids_are_counted() -> None:
    async with flaky(3) as nodes:
        nodes.refuse = lambda _: Refusal(trailers=NOT_STARTED)
        for _ in range(60):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await nodes.method()(b"")
        found = record(nodes.client, "t")
        method = found.method("/t.T/Get")
        assert found.unretried > 0
        assert method.started == len(nodes.ran) == 120 - found.unretried
        assert counts(method) == ({UNAVAILABLE: 60}, {UNAVAILABLE: len(nodes.ran)})


async def test_a_call_without_a_node_is_a_call_and_no_attempt() -> None:
    async with greeter(0) as (client, _, _servers):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub(client).SayHello(hello())
        found = record(client).method("/greeter.v1.Greeter/SayHello")
        assert counts(found) == ({UNAVAILABLE: 1}, {})
        assert found.started == 0


async def test_a_call_that_waits_for_its_node_waits_longer_than_its_attempt_takes() -> None:
    async with greeter() as (client, registry, (server,)):
        await registry.deregister(server.node)
        call = stub(client).SayHello(hello(), wait_for_ready=True)
        target = client.channel("greeter").open()
        while target.nodes is None:
            await target.change()
        await registry.register(server.node)
        await call
        found = record(client)
        method = found.method("/greeter.v1.Greeter/SayHello")
        assert counts(method) == ({0: 1}, {0: 1})
        assert found.waits.count == 1
        assert method.several[0].total >= found.waits.total + method.tries[0].total - 0.001


async def test_nodes_and_connections_that_come_and_go_are_counted() -> None:
    async with greeter(2) as (client, registry, servers):
        await connected(client, 2)
        found = record(client)
        assert (found.added, found.removed) == (2, 0)
        assert (found.connected, found.failed, found.disconnected) == (2, 0, 0)
        await registry.deregister(servers[0].node)
        await connected(client, 1)
        target = client.channel("greeter").open()
        while found.disconnected == 0:
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
        assert (found.added, found.removed) == (2, 1)
        assert len(target.channels) == 1
    assert (found.connected, found.disconnected) == (2, 2)


async def test_ejections_are_counted_by_what_showed_the_failures() -> None:
    async with flaky(3, outlier_ejection="on", client_retries=0) as nodes:
        nodes.refuse = lambda _: Refusal()
        for _ in range(15):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await nodes.method()(b"")
        found = record(nodes.client, "t")
        assert found.ejected == {"consecutive_failures": 1}
        assert found.not_ejected > 0


async def test_nothing_is_counted_where_metrics_are_off() -> None:
    async with greeter(metrics="off") as (client, _, _servers):
        await stub(client).SayHello(hello())
        assert client.recorder is None
