"""grpc.health.v1 and server reflection, as their clients use them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pymicro.serving.handlers import handler
from tests.serving.serving import Running, serving
from tests.serving.test_dispatch import Keeper

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
BOTH = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def health_of(running: Running) -> Any:
    return health_pb2_grpc.HealthStub(running.channel)


async def test_check_knows_the_server_and_each_service() -> None:
    async with serving(Keeper()) as running:
        stub = health_of(running)
        for name in ("", "pymicro.tests.zoo.Keeper"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert (await stub.Check(request)).status == SERVING
            running.server.set_serving(False)
            assert (await stub.Check(request)).status == NOT_SERVING
            running.server.set_serving(True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "pymicro.tests.zoo.Keeper" in (caught.value.details() or "")


async def test_a_server_is_not_serving_until_told_so() -> None:
    async with serving(Keeper()) as running:
        running.server.set_serving(False)
        assert (await health_of(running).Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


@pytest.mark.skipif(
    not hasattr(health_pb2, "HealthListRequest"), reason="List came with grpcio-health-checking 1.85"
)
async def test_list_has_every_service() -> None:
    async with serving(Keeper()) as running:
        listed = await health_of(running).List(health_pb2.HealthListRequest())
    assert {name: status.status for name, status in listed.statuses.items()} == {
        "": SERVING,
        "liveness": SERVING,
        "pymicro.tests.zoo.Keeper": SERVING,
    }


async def test_a_server_that_is_not_well_says_so_under_every_name_and_lives_all_the_same() -> None:
    async with serving(Keeper()) as running:
        stub = health_of(running)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        alive = stub.Watch(health_pb2.HealthCheckRequest(service="liveness"), timeout=20)
        assert (await watch.read()).status == (await alive.read()).status == SERVING

        async def status(name: str) -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=name))).status)

        running.server.set_well(False)
        assert (await watch.read()).status == NOT_SERVING
        names = ("", "pymicro.tests.zoo.Keeper", "liveness")
        assert [await status(name) for name in names] == [NOT_SERVING, NOT_SERVING, SERVING]
        assert await running.ask("Import") == ["ANT"]  # and it serves
        # A stop is not taken back by a server that is well again.
        running.server.set_serving(False)
        running.server.set_well(True)
        assert await status("") == NOT_SERVING
        running.server.set_serving(True)
        assert (await watch.read()).status == SERVING
        running.server.begin_drain()
        assert (await watch.read()).status == NOT_SERVING
        assert [await status(name) for name in names] == [NOT_SERVING, NOT_SERVING, SERVING]
        # Nothing has changed for this one, and it ends.
        assert await alive.read() is grpc.aio.EOF


async def test_watch_tells_every_change_and_ends_at_the_drain_after_saying_so() -> None:
    async with serving(Keeper()) as running:
        stub = health_of(running)
        known = stub.Watch(health_pb2.HealthCheckRequest(service="pymicro.tests.zoo.Keeper"), timeout=20)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=20)
        assert (await known.read()).status == SERVING
        assert (await unknown.read()).status == SERVICE_UNKNOWN
        running.server.set_serving(False)
        assert (await known.read()).status == NOT_SERVING
        running.server.set_serving(True)
        assert (await known.read()).status == SERVING
        assert running.server.in_progress == 0  # a watch is no call to wait for
        running.server.begin_drain()
        assert (await known.read()).status == NOT_SERVING
        for watch in (known, unknown):
            assert await watch.read() is grpc.aio.EOF
            assert await watch.code() is grpc.StatusCode.OK
        # After the drain it is over at once.
        late = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert [reply.status async for reply in late] == [NOT_SERVING]


def ask(running: Running, package: str) -> Any:
    return running.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )


async def answers(running: Running, package: str, **question: Any) -> Any:
    """The one answer to one question."""
    requests = iter([reflection_pb2.ServerReflectionRequest(**question)])
    (answer,) = [answer async for answer in ask(running, package)(requests, timeout=20)]
    return answer


def files_in(answer: Any) -> dict[str, Any]:
    raw = answer.file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in raw]
    return {file.name: file for file in files}


@pytest.mark.parametrize("package", BOTH)
async def test_reflection_lists_and_describes_what_is_served(package: str) -> None:
    async with serving(Keeper()) as running:
        listed = await answers(running, package, list_services="")
        names = [service.name for service in listed.list_services_response.service]
        assert names == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "pymicro.tests.zoo.Keeper",
        ]
        for name in names:
            files = files_in(await answers(running, package, file_containing_symbol=name))
            found = [f"{file.package}.{service.name}" for file in files.values() for service in file.service]
            assert name in found
        by_name = await answers(running, package, file_by_filename="pymicro_tests_zoo.proto")
        assert "pymicro_tests_zoo.proto" in files_in(by_name)
        for question in (
            {"file_containing_symbol": "no.such.Thing"},
            {"file_by_filename": "no.proto"},
            {"all_extension_numbers_of_type": "no.Type"},
            {"file_containing_extension": reflection_pb2.ExtensionRequest(containing_type="no.Type")},
        ):
            missing = await answers(running, package, **question)
            assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_the_descriptor_of_v1_says_v1_throughout() -> None:
    async with serving(Keeper()) as running:
        name = "grpc.reflection.v1.ServerReflection"
        files = files_in(await answers(running, BOTH[0], file_containing_symbol=name))
    (file,) = files.values()
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # builds: every type it names is in it
    (method,) = pool.FindServiceByName(name).methods
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    assert b"v1alpha" not in file.SerializeToString()


async def test_a_service_of_a_private_pool_is_described() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="private.proto", package="private", syntax="proto3")
    file.message_type.add(name="Empty")
    file.service.add(name="Quiet").method.add(
        name="Hush", input_type=".private.Empty", output_type=".private.Empty"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    class Quiet:
        @handler
        async def hush(self, request: Any) -> Any:
            return request

    async with serving(Quiet(), source=pool.FindServiceByName("private.Quiet")) as running:
        assert await running.channel.unary_unary("/private.Quiet/Hush")(b"") == b""
        for package in BOTH:
            found = await answers(running, package, file_containing_symbol="private.Quiet")
            assert "private.proto" in files_in(found)


@pytest.mark.parametrize("package", BOTH)
async def test_an_idle_reflection_stream_ends_at_the_drain(package: str) -> None:
    async with serving(Keeper()) as running:
        call = ask(running, package)(timeout=20)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.read()
        running.server.begin_drain()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_user_may_bring_a_health_service_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pymicro.server")

    class Health:
        @handler
        async def check(self, request: Any) -> Any:
            return health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN)

    async with serving(Health(), source=health_pb2) as running:
        reply = await health_of(running).Check(health_pb2.HealthCheckRequest())
        assert reply.status == SERVICE_UNKNOWN
    assert "a health (grpc.health.v1.Health) of its own" in caplog.text
    assert "`liveness`" in caplog.text


@pytest.mark.parametrize("aio", [True, False])
async def test_the_usual_lines_of_grpcio_programs_are_taken_as_what_is_there_already(
    aio: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pymicro.server")
    stock = health.aio.HealthServicer() if aio else health.HealthServicer()

    def usual(server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(stock, server)
        names = ("pymicro.tests.zoo.Keeper", reflection.SERVICE_NAME)
        if aio:
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names), server
            )
        else:
            reflection.enable_server_reflection(names, server)
        server.add(stock)

    async with serving(Keeper(), add=usual) as running:
        reply = await health_of(running).Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert reply.status == SERVING  # pymicro's own: grpcio's knows no such name
        for package in BOTH:
            found = await answers(running, package, file_containing_symbol="pymicro.tests.zoo.Keeper")
            assert found
    told = [record.message for record in caplog.records if "is left out" in record.message]
    assert told == [
        "health is always served, so grpcio's HealthServicer is left out: "
        "set_health() and health_check() say whether the service is well",
        "reflection is always served, so grpcio's ReflectionServicer is left out",
    ]


async def test_a_server_to_which_nothing_was_added_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with serving():
        pass
    (record,) = [record for record in caplog.records if record.name == "pymicro.server"]
    assert record.levelname == "WARNING"
    assert "serves no method: nothing was added to it (service.add(...))" in record.message
    caplog.clear()
    async with serving(Keeper()):
        pass
    assert "serves no method" not in caplog.text
