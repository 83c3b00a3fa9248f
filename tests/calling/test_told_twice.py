"""grpc.aio tells of one end twice where a write failed: first with a code that it made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from pymicro.calling.connections import core
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import Status
from pymicro.nodes.node import Node
from pymicro.settings.config import Config
from tests.fakes.transport import Call, Connection, Network

from . import backends
from .flaky import EXHAUSTED, NOT_STARTED, Refusal, flaky


class ToldTwice(Call):
    """A call whose refusal is told twice in one turn of the loop; the code is known at the second time."""

    sure = False

    def finish(self, status: Status) -> None:
        callbacks, first = list(self._callbacks), self.status is None
        if status.code is not EXHAUSTED:
            self.sure = True
        super().finish(status)
        if first and not self.sure:
            self.sure = True
            for callback in callbacks:
                callback(self)


class Hesitant(Connection):
    """A connection that has the last word on its calls when it is told to."""

    def __init__(self, network: Network, address: str) -> None:
        super().__init__(network, address)
        self.may_say = asyncio.Event()
        self.said = asyncio.Event()

    def bind(self, method: Method) -> Callable[..., Call]:
        def start(request: bytes | None, /, *, timeout: float | None, metadata: Any, **_: Any) -> Call:
            return ToldTwice(self, method, request, timeout, tuple(metadata or ()))

        return start

    def code(self, call: Call) -> grpc.StatusCode:
        code: Any = super().code(call) if isinstance(call, ToldTwice) and call.sure else None
        return code

    async def last_word(self, call: Call) -> None:
        await self.may_say.wait()
        self.said.set()


class Hesitating(Network):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Hesitant] = []

    def open(self, node: Node, config: Config, options: ChannelOptions) -> Connection:
        self.opened.append(Hesitant(self, node.address))
        return self.opened[-1]


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_an_attempt_that_another_one_followed_has_no_say_any_more(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Hesitating()
    monkeypatch.setattr(core, "GrpcTransport", lambda: network)
    monkeypatch.setattr(backends, "network", network)

    async def requests() -> AsyncIterator[bytes]:
        yield b"x"

    async with flaky(2) as nodes:
        nodes.refuse = lambda number: Refusal(EXHAUSTED, NOT_STARTED) if number == 0 else None
        call = nodes.method(shape, "/t.T/Put" if shape == "stream_unary" else "/t.T/Chat")(
            requests(), timeout=20
        )
        if shape == "stream_unary":
            await call
        else:
            assert [message async for message in call] == [b"X"]
        first = next(node.address for node in nodes.nodes if node.id == nodes.ran[0])
        (refusing,) = [one for one in network.opened if one.address == first]
        refusing.may_say.set()
        await refusing.said.wait()
        assert await call.code() is grpc.StatusCode.OK
        assert len(nodes.ran) == 2
