"""Pings: to nodes that permit them, and to nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, MemoryRegistry, Node, Service
from pymicro.calling.connections.options import channel_arguments
from pymicro.settings.config import Config

from .backends import backend, hello, stub
from .wire import PERMITTING, Wire, wire

# A second is the shortest interval that grpc-core's client keeps to.
SECOND = (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000))
# grpc-core's own pings, which measure the bandwidth whenever data arrives.
NO_PROBES = ("grpc.http2.bdp_probe", 0)
NEVER = (1 << 31) - 2


def arguments(metadata: dict[str, str], **settings: Any) -> dict[str, Any]:
    node = Node("n", "127.0.0.1:1", "greeter", metadata=metadata)
    found = channel_arguments(Config(**settings), node, ())
    return {name: value for name, value in found if "ping" in name or "keepalive" in name}


@asynccontextmanager
async def wired(
    metadata: dict[str, str], *, server: Any = (), **settings: Any
) -> AsyncIterator[tuple[Client, Wire]]:
    """A client of one node, behind a proxy that counts its pings."""
    registry = MemoryRegistry()
    async with registry, backend(options=server) as behind, wire(behind.node.address) as line:
        await registry.register(Node("wired", line.address, "greeter", metadata=metadata))
        async with Client(registry=registry, **settings) as client:
            yield client, line


@pytest.mark.parametrize(
    ("said", "wanted", "milliseconds"),
    [
        ("10s", 20.0, 20_000),
        ("10s", 1.0, 11_000),  # a second more: pings may come closer to each other on their way
        ("10s", 0.001, 11_000),
        ("1ms", 1.0, 11_000),
        ("1m", 20.0, 61_000),
        ("10s", 10_000_000.0, NEVER),
        ("87600h", 20.0, NEVER),
    ],
)
def test_pings_are_as_far_apart_as_the_setting_says_and_the_node_permits(
    said: str, wanted: float, milliseconds: int
) -> None:
    assert arguments({"keepalive": said}, keepalive=wanted) == {
        "grpc.keepalive_time_ms": milliseconds,
        "grpc.keepalive_timeout_ms": 3000,
        "grpc.http2.ping_timeout_ms": 5000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }


@pytest.mark.parametrize("metadata", [{}, {"keepalive": ""}, {"keepalive": "often"}, {"keepalive": "-1s"}])
def test_a_node_that_does_not_permit_pings_gets_none(metadata: dict[str, str]) -> None:
    assert arguments(metadata) == {"grpc.keepalive_time_ms": NEVER, "grpc.keepalive_timeout_ms": 3000}


@pytest.mark.parametrize("metadata", [{}, {"keepalive": "10s"}])
def test_0_leaves_it_all_to_grpc(metadata: dict[str, str]) -> None:
    assert arguments(metadata, keepalive=0.0) == {}


async def test_a_node_that_permits_it_is_pinged_between_calls_and_stays_connected() -> None:
    async with wired({"keepalive": "10s"}, server=PERMITTING) as (client, line):
        await stub(client, options=(*SECOND, NO_PROBES)).SayHello(hello())
        await line.until(lambda: line.pings >= 5)
        assert line.connections == 1


async def test_a_server_that_forbids_pings_never_cuts_a_silent_stream() -> None:
    # grpc-core's defaults: the third ping within 5 minutes ends the connection. With a second
    # between them that would be after 4 s.
    async with wired({}, keepalive=1.0) as (client, line):
        chat = stub(client, options=(NO_PROBES,)).Chat()
        await chat.write(pb.ChatMessage(text="still"))
        assert (await chat.read()).text == "STILL"
        silence = asyncio.ensure_future(chat.read())
        await asyncio.wait({silence}, timeout=5)
        await chat.write(pb.ChatMessage(text="here"))
        assert (await silence).text == "HERE"
        assert (line.pings, line.connections) == (0, 1)
        chat.cancel()


async def test_the_same_stream_is_cut_if_the_server_is_pinged() -> None:
    # Whoever asks for it in code has the last word; it shows what the test above is for.
    forced = (*SECOND, ("grpc.http2.max_pings_without_data", 0))
    async with wired({}) as (client, _):
        chat = stub(client, options=forced).Chat()
        await chat.write(pb.ChatMessage(text="still"))
        assert (await chat.read()).text == "STILL"
        with pytest.raises(pymicro.Unavailable, match="Too many pings"):
            async with asyncio.timeout(30):
                await chat.read()


def user_timeouts(port: int) -> Iterator[int]:
    """TCP_USER_TIMEOUT of this process's connections to a port."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(entry))) as found:
                if found.getpeername()[1] == port:
                    yield found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        except (OSError, IndexError, TypeError):
            continue  # no socket, or none that is connected to an address


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
@pytest.mark.parametrize(
    ("metadata", "keepalive", "milliseconds"),
    [({}, 20.0, 3000), ({"keepalive": "10s"}, 20.0, 3000), ({}, 0.0, 0)],
)
async def test_what_is_sent_is_acknowledged_in_three_seconds_or_the_connection_ends(
    metadata: dict[str, str], keepalive: float, milliseconds: int
) -> None:
    async with wired(metadata, keepalive=keepalive) as (client, line):
        await stub(client).SayHello(hello())
        assert list(user_timeouts(int(line.address.rpartition(":")[2]))) == [milliseconds]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "10s"),
        ((("grpc.http2.min_ping_interval_without_data_ms", 60_000),), "1m"),
        ((("grpc.keepalive_permit_without_calls", 0),), None),
    ],
)
async def test_a_service_registers_what_its_server_permits(options: Any, said: str | None) -> None:
    registry = MemoryRegistry()
    async with (
        registry,
        Service("greeter", registry=registry, admin_address="off", options=options) as service,
    ):
        assert service.node.metadata.get("keepalive") == said
        async with Client(registry=registry) as client:
            (node,) = await client.nodes("greeter")
        assert node.metadata == service.node.metadata == service.node_metadata(service.config)


async def test_a_service_registers_its_zone_and_code_has_the_last_word() -> None:
    registry = MemoryRegistry()
    zone, own = "topology.kubernetes.io/zone", {"keepalive": "never"}
    speaks = {"protocol": "grpc", "server": "grpc", "transport": "grpc"}
    settings: Any = {"registry": registry, "zone": "eu-1a", "metadata": own, "admin_address": "off"}
    async with registry, Service("greeter", **settings) as service:
        assert service.node.metadata == {**speaks, zone: "eu-1a", "keepalive": "never"}
    async with Service("greeter", registry=registry) as service:
        assert zone not in service.node.metadata
