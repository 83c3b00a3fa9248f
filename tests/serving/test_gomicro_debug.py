"""go-micro's Debug service, as its probes and its health sidecar call it."""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pymicro.serving.handlers import handler
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.gomicro_caller import JSON, GoCaller
from tests.serving.serving import Running, serving
from tests.serving.test_admission import Waiting, full
from tests.serving.test_dispatch import Keeper
from tests.serving.test_foreign_interceptors import Seeing, passing

ZOO = Config(server_name="go.micro.srv.zoo")
OK = b"\x0a\x02ok"
PATH = "/go.micro.srv.zoo.Debug/Health"


def resident_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


async def stats(running: Running, content: bytes = b"{}") -> dict[str, int]:
    (answer,) = await GoCaller(running, JSON).raw("Import", content, path="/zoo.Debug/Stats")
    return {name: int(value) for name, value in json.loads(answer).items()}


@pytest.mark.parametrize("around", [[], [passing], [Seeing()]], ids=["bare", "ours", "foreign"])
async def test_health_says_ok_under_any_prefix(around: list[Any]) -> None:
    async with serving(Keeper(), config=ZOO, interceptors=around) as running:
        for path in (PATH, "/other.name.Debug/Health", "/Debug/Health"):
            assert await running.channel.unary_unary(path)(b"", timeout=20) == OK
            assert await GoCaller(running).raw("Import", b"\x0a\x03zoo", path=path) == [OK]
            assert await GoCaller(running, JSON).raw("Import", b'{"service":"zoo"}', path=path) == [
                b'{"status":"ok"}'
            ]


async def test_a_server_without_a_name_has_it_too() -> None:
    async with serving(Keeper()) as running:
        assert await GoCaller(running).raw("Import", b"", path="/x.Debug/Health") == [OK]


async def test_health_is_not_ok_before_the_service_is_and_once_it_drains() -> None:
    server = Server(ZOO)
    server.add(Keeper(), pb)
    host, port = await server.bind("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        health = channel.unary_unary(PATH)
        assert await health(b"", timeout=20) == b"\x0a\x0bnot serving"
        server.set_serving(True)
        assert await health(b"", timeout=20) == OK
        server.begin_drain()
        assert await health(b"", timeout=20) == b"\x0a\x0bnot serving"
    await server.stop(None)


async def test_stats_are_true() -> None:
    async with serving(Keeper(), config=ZOO) as running:
        before = int(time.time())
        found = await stats(running)
        assert before <= found["timestamp"] <= time.time()
        assert before - 60 <= found["started"] <= found["timestamp"]
        assert found.get("uptime", 0) <= found["timestamp"] - found["started"] + 1
        resident = resident_memory()
        assert 0.8 < found["memory"] / resident < 1.25
        # Pages of its own: what is allocated may lie where something was freed, and then nothing grows.
        held = mmap.mmap(-1, 64 << 20)
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        more = await stats(running)
        assert more["memory"] - found["memory"] > 60 << 20
        held.close()
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait) for _ in range(50)]
        for thread in threads:
            thread.start()
        grown = (await stats(running))["threads"]
        # Give or take those that grpc-core starts and ends as it needs them.
        assert abs(grown - len(os.listdir("/proc/self/task"))) < 20
        assert 30 < grown - found["threads"] < 70
        stop.set()
        for thread in threads:
            thread.join()


async def test_the_garbage_collector_is_watched_from_the_first_question_to_the_stop() -> None:
    before = list(gc.callbacks)
    async with serving(Keeper(), config=ZOO) as running:
        assert gc.callbacks == before
        assert "gc" not in await stats(running)
        gc.disable()  # none but those that are asked for
        try:
            gc.collect()
            first = (await stats(running))["gc"]
            assert 0 < first < 10e9
            started = time.perf_counter_ns()
            gc.collect()
            took = time.perf_counter_ns() - started
            second = (await stats(running))["gc"]
        finally:
            gc.enable()
        assert 0 < second - first <= took
        assert len(gc.callbacks) == len(before) + 1
    assert gc.callbacks == before


async def test_it_is_no_call_in_progress_and_never_refused_and_in_no_record() -> None:
    waiting = Waiting()
    async with full(waiting) as running:
        for _ in range(3):
            assert await GoCaller(running).raw("Import", b"", path="/x.Debug/Health") == [OK]
        assert running.server.in_progress == 1
        assert not [end for end in running.server.endpoints() if end.name.startswith("Debug")]
        assert "Debug" not in " ".join(running.server.services)
        waiting.go.set()


async def test_reflection_does_not_list_it() -> None:
    async with serving(Keeper(), config=ZOO) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        call = stub.ServerReflectionInfo(timeout=20)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await call.read()
        await call.done_writing()
        assert "Debug" not in str(listed)
        assert await call.read() is grpc.aio.EOF


async def test_what_it_does_not_have_is_said() -> None:
    async with serving(Keeper(), config=ZOO) as running:
        failure = await GoCaller(running).failure("Import", path="/go.micro.srv.zoo.Debug/Log")
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED
        assert failure.json["detail"] == (
            "/go.micro.srv.zoo.Debug/Log is not served here: go.micro.srv.zoo.Debug has Health, Stats"
        )


def own_debug(package: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="own_debug.proto", package=package, syntax="proto3")
    file.message_type.add(name="Word").field.add(name="word", number=1, type=9, label=1)
    file.service.add(name="Debug").method.add(
        name="Health", input_type=f".{package}.Word", output_type=f".{package}.Word"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Debug")


@pytest.mark.parametrize("package", ["acme.v1", "go.micro.srv.zoo"])
async def test_a_users_own_debug_wins_method_by_method(package: str) -> None:
    source = own_debug(package)
    word = message_factory.GetMessageClass(source.methods_by_name["Health"].input_type)

    class Own:
        @handler
        async def health(self, request: Any) -> Any:
            return word(word="own")

    async with serving(Own(), source=source, config=ZOO) as running:
        for path in (PATH, "/x.Debug/Health", f"/{package}.Debug/Health"):
            assert await GoCaller(running).raw("Import", b"", path=path) == [b"\x0a\x03own"]
        assert (await stats(running))["threads"] > 0


async def test_many_probes_at_once() -> None:
    async with serving(Keeper(), config=ZOO) as running:
        caller = GoCaller(running)
        answers = await asyncio.gather(*(caller.raw("Import", b"", path=PATH) for _ in range(100)))
        assert answers == [[OK]] * 100
