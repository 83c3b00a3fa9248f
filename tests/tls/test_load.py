"""Certificates and authorities change under load, and no call fails."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Service, handler
from pymicro.identity.keeper import IdentityKeeper
from pymicro.runtime.loops import loop_factory
from tests.certificates import Folder, pem_of
from tests.serving.serving import eventually
from tests.tls.ends import Authority

# Seconds between two exchanges, and how many there are.
PACE, EXCHANGES = 0.3, 20
# Calls of each shape that are going on at any time.
UNARY, STREAMS = 8, 2


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        await asyncio.sleep(0.002)  # so that calls are in flight when something changes
        return pb.HelloReply(message=request.name)

    @handler
    async def count_down(self, request: pb.CountDownRequest) -> AsyncIterator[pb.CountDownReply]:
        for _ in range(50):
            await asyncio.sleep(0.01)
            yield pb.CountDownReply()


class Load:
    """Calls that go on and on.

    Attributes:
        counts: How many ended well, by shape.
        failures: What the others ended with.
    """

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.counts: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._ending = False

    async def _unary(self) -> None:
        await self._stub.SayHello(pb.HelloRequest(name="Ada"), timeout=30)

    async def _stream(self) -> None:
        assert len([one async for one in self._stub.CountDown(pb.CountDownRequest(), timeout=60)]) == 50

    async def _repeat(self, shape: str, call: Callable[[], Any]) -> None:
        while not self._ending:
            try:
                await call()
                self.counts[shape] += 1
            except Exception as exc:
                self.failures.append(exc)
                await asyncio.sleep(0.01)  # a node that is away fails a thousand in a moment

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.ensure_future(self._repeat(shape, call))
            for shape, call, count in (("unary", self._unary, UNARY), ("stream", self._stream, STREAMS))
            for _ in range(count)
        ]
        try:
            await eventually(lambda: self.counts["unary"] > UNARY, "calls go on")
            yield
        finally:
            self._ending = True
            await asyncio.gather(*tasks)


class Pair:
    """Both ends, each with certificates of its own, and calls between them."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.server, self.caller = authority.folder("greeter"), authority.folder("cart")

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator[Load]:
        registry = MemoryRegistry()
        self.service = Service("greeter", registry=registry, stop_grace=30, **self.server.settings)
        self.service.add(Greeter(), pb, partial=True)
        # Whatever fails is to be seen: nothing is tried again, and no node is left out.
        strict: dict[str, Any] = {"client_retries": 0, "outlier_ejection": "off", "client_tls": "require"}
        self.client = Client(registry=registry, **strict, **self.caller.settings)
        async with self.service, self.client:
            load = Load(rpc.GreeterStub(self.client.channel("greeter")))
            async with load.running():
                yield load
        print(f"{dict(load.counts)}, {len(load.failures)} failed")

    @property
    def keepers(self) -> list[IdentityKeeper]:
        found = [self.service.client.identity, self.client.identity]
        assert all(found)
        return [one for one in found if one is not None]

    async def put(self, put: Callable[[Folder, str], None]) -> None:
        """Change both ends' files, and wait until they are in use at both."""
        before = [keeper.taken for keeper in self.keepers]
        put(self.server, "greeter")
        put(self.caller, "cart")
        await eventually(
            lambda: all(keeper.taken > taken for keeper, taken in zip(self.keepers, before, strict=True)),
            "both ends have taken them",
        )
        await eventually(self._connected_anew, "the client calls over a connection of now", timeout=30)

    def _connected_anew(self) -> bool:
        current = self.keepers[1].current
        channels = [one for target in self.client.core.targets for one in target.channels.values()]
        return bool(channels) and all(
            one.pickable and one.secured is not None and one.secured.identity == current for one in channels
        )


async def exchanged(authority: Authority) -> None:
    pair = Pair(authority)
    async with pair.calling() as load:
        for _ in range(EXCHANGES):
            begun = time.monotonic()
            before = load.counts["unary"]
            await pair.put(lambda folder, name: folder.issue(authority.ca, name))
            await eventually(lambda before=before: load.counts["unary"] > before, "calls go on")
            # The pace of the exchanges, not a wait for anything.
            await asyncio.sleep(max(0.0, begun + PACE - time.monotonic()))
        assert [keeper.taken for keeper in pair.keepers] == [EXCHANGES + 1] * 2
        assert [keeper.refused for keeper in pair.keepers] == [0, 0]
    assert load.failures == []
    assert load.counts["stream"] >= STREAMS
    assert pair.client.core.leaving == ()


async def test_twenty_exchanges_of_both_ends_certificates_fail_no_call(authority: Authority) -> None:
    await exchanged(authority)


def test_on_uvloop_too(authority: Authority, transport: str) -> None:
    with asyncio.Runner(loop_factory=loop_factory("uvloop")) as runner:
        runner.run(exchanged(authority))


async def test_an_authority_is_exchanged_without_a_failed_call(authority: Authority) -> None:
    old, new = authority.ca, trustme.CA()
    both = pem_of(old) + pem_of(new)
    pair = Pair(authority)
    async with pair.calling() as load:
        for issuer, believed in ((old, both), (new, both), (new, pem_of(new))):
            before = load.counts["unary"]
            await pair.put(
                lambda folder, name, issuer=issuer, believed=believed: folder.issue(  # type: ignore[misc]
                    issuer, name, believe=believed
                )
            )
            await eventually(lambda before=before: load.counts["unary"] > before + 10, "calls go on")
    assert load.failures == []


async def test_a_certificate_that_expires_ends_no_connection_and_the_next_one_is_taken(
    authority: Authority,
) -> None:
    pair = Pair(authority)
    async with pair.calling() as load:
        await pair.put(lambda folder, name: folder.issue(authority.ca, name, days=5 / 86400))
        ends = [keeper.current.not_after for keeper in pair.keepers]
        await eventually(
            lambda: all(end is not None and time.time() > end + 1 for end in ends), "both have expired"
        )
        before = load.counts["unary"]
        await eventually(lambda: load.counts["unary"] > before + 10, "calls go on")
        assert load.failures == []
        # The server first: a caller that has expired could not connect anew, and need not.
        pair.server.issue(authority.ca, "greeter")
        await eventually(lambda: pair.keepers[0].taken == 3, "it is taken")
        await pair.put(lambda folder, name: folder.issue(authority.ca, name))
    assert load.failures == []


async def test_the_documented_steps_of_moving_over_fail_no_call(authority: Authority) -> None:
    """docs/security.md, "Moving over": each step replaces a node, while three kinds of clients call."""
    registry = MemoryRegistry()

    def node(**settings: Any) -> Service:
        service = Service("greeter", registry=registry, **settings)
        service.add(Greeter(), pb, partial=True)
        return service

    def caller(**settings: Any) -> Client:
        return Client(registry=registry, **settings)

    def secured(client: Client) -> set[bool]:
        channels = [one for target in client.core.targets for one in target.channels.values()]
        return {one.secured is not None for one in channels if one.pickable}

    files, both = authority.folder("greeter").settings, {"tls_plain_address": "127.0.0.1:0"}
    certified = authority.folder("cart").settings
    async with (
        caller() as old,
        caller(**certified) as auto,
        caller(client_tls="require", **certified) as strict,
        contextlib.AsyncExitStack() as loads,
    ):

        async def called(client: Client) -> Load:
            load = Load(rpc.GreeterStub(client.channel("greeter")))
            await loads.enter_async_context(load.running())
            return load

        async with node() as plain:
            first = [await called(old), await called(auto)]
            moving = node(**files, **both)
            await moving.__aenter__()
            assert plain.node.address != moving.node.address
        # Step 1: whoever has certificates goes over by himself, and nobody else has to.
        await eventually(lambda: (secured(old), secured(auto)) == ({False}, {True}), "they have gone over")
        # Step 2: require, which a client has from its start.
        last = await called(strict)
        assert secured(strict) == {True}
        assert first[0].failures == []
        # Step 3: no plain port. Those without certificates are left behind here, so they end before.
        await loads.aclose()
        async with contextlib.AsyncExitStack() as loads:
            remaining = [await called(auto), await called(strict)]
            async with node(**files) as moved:
                await moving.__aexit__(None, None, None)
                await eventually(lambda: (secured(auto), secured(strict)) == ({True}, {True}), "both call it")
                assert moved.node.metadata["tls"] == "on"
                await loads.aclose()
    assert [load.failures for load in (*first, last, *remaining)] == [[]] * 5


@pytest.mark.parametrize("end", ["server", "caller"])
async def test_bad_certificates_under_load_cost_no_call(authority: Authority, end: str) -> None:
    """Half a file, a key of another, one that has expired: each stays unused."""
    pair = Pair(authority)
    async with pair.calling() as load:
        folder, keeper = (pair.server, pair.keepers[0]) if end == "server" else (pair.caller, pair.keepers[1])
        good = [(folder.path / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")]
        cert, key, ca = good
        other = authority.folder("other")
        for refused, bad in enumerate(
            [
                (cert[: len(cert) // 2], key, ca),
                (cert, (other.path / "tls.key").read_bytes(), ca),
                (b"", key, ca),
                (cert, key, pem_of(trustme.CA())),
            ],
            1,
        ):
            folder.put(*bad)
            await eventually(lambda refused=refused: keeper.refused == refused, "it is refused")
        before = load.counts["unary"]
        await eventually(lambda: load.counts["unary"] > before + 10, "calls go on")
        assert keeper.taken == 1
    assert load.failures == []
