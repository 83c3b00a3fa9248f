"""Forked children: who forks after gRPC was used is told at once, and who forks before has no trouble."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import ROOT, clean_environment

PROGRAM = """
import asyncio, multiprocessing, os, sys, warnings

import pymicro
from greeter.v1 import greeter_pb2 as pb, greeter_pb2_grpc as rpc

warnings.simplefilter("ignore")  # 3.12 and newer warn of forks beside threads
registry = pymicro.MemoryRegistry()
client = pymicro.Client(registry=registry, subset_size=10)


class Greeter:
    @pymicro.handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply(message="Hello " + request.name)


async def ask(client):
    stub = rpc.GreeterStub(client.channel("greeter"))
    return (await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=30)).message


async def serve_and_ask():
    service = pymicro.Service("greeter", registry=registry)
    service.add(Greeter(), pb, partial=True)
    async with service, pymicro.Client(registry=registry) as client:
        return await ask(client)


async def open_and_ask():
    async with pymicro.Client(registry=registry) as client:
        return await ask(client)


async def subset():
    async with client:
        return client._core._seed


CHILDREN = {
    "serves": serve_and_ask,
    "opens a client": open_and_ask,
    "asks the parent's client": lambda: ask(client),
    "subset": subset,
}


def child(name):
    try:
        print(asyncio.run(CHILDREN[name]()), flush=True)
    except pymicro.PymicroError as exc:
        print(type(exc).__name__, exc, flush=True)
        os._exit(0)  # without taking the parent's gRPC objects apart


def fork(name):
    process = multiprocessing.get_context("fork").Process(target=child, args=(name,))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


async def fork_while_open(name):
    service = pymicro.Service("greeter", registry=registry)
    service.add(Greeter(), pb, partial=True)
    async with service, client:
        assert await ask(client) == "Hello Ada"
        fork(name)
        assert await ask(client) == "Hello Ada"  # the parent goes on


when, name = sys.argv[1:]
if when == "before":
    fork(name)
    fork(name)
elif when == "while":
    asyncio.run(fork_while_open(name))
else:
    asyncio.run(serve_and_ask())
    fork(name)
"""


def lines(*arguments: str) -> list[str]:
    """What the children of the program printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT / "examples" / "greeter",
        # With it, grpc-core itself crashes the child now and then, before Python goes on there.
        env=clean_environment(PYTHONPATH=str(ROOT), GRPC_ENABLE_FORK_SUPPORT="0"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("while", "serves"),
        ("while", "opens a client"),
        ("while", "asks the parent's client"),
        ("after", "serves"),
        ("after", "opens a client"),
    ],
)
def test_a_child_forked_after_grpc_was_used_is_told_at_once(when: str, name: str) -> None:
    (line,) = lines(when, name)
    assert line.startswith("PymicroError this process was forked after gRPC was used")
    assert "`spawn` or `forkserver`" in line


def test_children_forked_before_grpc_was_used_serve_and_ask() -> None:
    assert lines("before", "serves") == ["Hello Ada"] * 2


def test_children_take_other_subsets_than_each_other() -> None:
    one, other = lines("before", "subset")
    assert one != other
