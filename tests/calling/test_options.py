"""Channel options that grpc refuses are refused where they are given, and hold up nobody else."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import pymicro
from pymicro import Client, ConfigError, MemoryRegistry, Node

from .backends import backend, hello, stub

BAD = [
    ([("grpc.foo", None)], "'grpc.foo' is an int, a text or bytes, and not None"),
    ([("grpc.ok", 1), ("grpc.foo", 1.5)], "'grpc.foo' is an int, a text or bytes, and not 1.5"),
    ([("grpc.foo", [1])], r"'grpc.foo' is an int, a text or bytes, and not \[1\]"),
    ([("grpc.foo", 1 << 31)], "'grpc.foo' is 2147483648, which does not fit into 32 bits"),
    ([("grpc.foo", "\ud800")], "'grpc.foo' has '.ud800', which is no Unicode"),
    ([("grpc.foo",)], "are pairs of name and value"),
    ([(5, 1)], "are pairs of name and value"),
    ({"ab": 1}, "are pairs of name and value, and not 'ab'"),
]


@pytest.mark.parametrize(("options", "why"), BAD)
async def test_an_option_that_grpc_refuses_is_refused_where_it_is_given(options: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Client(options=options)
    with pytest.raises(ConfigError, match=why):
        pymicro.Service("t", client_options=options)
    with pytest.raises(ConfigError, match=why):
        Client().channel("bad", options=options)


async def test_a_compression_that_there_is_not_is_refused_where_it_is_given() -> None:
    for compression in ("gzip", 7):
        with pytest.raises(ConfigError, match=r"compression= is a grpc\.Compression"):
            Client().channel("bad", compression=compression)  # type: ignore[arg-type]
    assert Client().channel("good", compression=grpc.Compression.Gzip)


async def test_options_that_grpc_takes_are_taken() -> None:
    registry = MemoryRegistry()
    options: Any = [
        ("grpc.foo", "text"),
        ["grpc.bar", b"bytes"],
        ("grpc.baz", True),
        ("grpc.min", -(1 << 31)),
    ]
    async with registry, backend(registry), Client(registry=registry, options=options) as client:
        await stub(client, options=[["grpc.more", 1]]).SayHello(hello(), timeout=5)


async def test_a_node_that_cannot_be_dialled_holds_up_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    registry = MemoryRegistry()
    bad = [Node(f"bad{number}", f"\ud800{number}:1", "greeter") for number in range(3)]
    async with registry, backend(registry) as server, Client(registry=registry) as client:
        for node in bad:
            await registry.register(node)
        for _ in range(4):
            await stub(client).SayHello(hello(), timeout=5)
        assert server.calls == 4
        told = [record.message for record in caplog.records if "cannot be connected to" in record.message]
        assert len(told) == 3


async def test_a_service_whose_only_node_cannot_be_dialled_is_unavailable_and_says_why() -> None:
    registry = MemoryRegistry()
    async with registry, backend(registry) as server, Client(registry=registry) as client:
        await registry.register(Node("bad", "\ud800:1", "other"))
        with pytest.raises(pymicro.Unavailable, match=r"node bad cannot be connected to: .*surrogates"):
            await stub(client, "other").SayHello(hello(), timeout=5)
        await stub(client).SayHello(hello(), timeout=5)
        assert server.calls == 1
