"""A client and encrypted connections: to which nodes, under which names, and with new certificates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import trustme

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Node, NodeSet, Unavailable
from pymicro.base.errors import ConfigError
from pymicro.nodes.wellknown import TLS
from tests.certificates import Folder, pem_of
from tests.greeting import Greeter, greeter
from tests.serving.serving import eventually
from tests.tls.ends import Authority

ADA, SLOW = pb.HelloRequest(name="Ada"), pb.HelloRequest(name="slow")


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


def client(registry: MemoryRegistry, **settings: Any) -> Client:
    return Client(registry=registry, **{"client_first_wait": 0.0, **settings})


def stub(opened: Client, **options: Any) -> Any:
    return rpc.GreeterStub(opened.channel("greeter", **options))


def connections(opened: Client) -> list[Any]:
    """The client's connections to nodes."""
    return [channel for target in opened.core.targets for channel in target.channels.values()]


async def failure(stub: Any, timeout: float = 10) -> str:
    with pytest.raises(Unavailable) as caught:
        await stub.SayHello(ADA, timeout=timeout)
    return caught.value.details()


# Which nodes


async def test_nodes_that_say_so_are_called_over_tls_and_the_others_in_plain_text(
    registry: MemoryRegistry, authority: Authority
) -> None:
    one, first = greeter(registry, **authority.folder("greeter").settings)
    two, second = greeter(registry)
    async with one, two, client(registry, **authority.folder("cart").settings) as opened:
        greet = stub(opened)
        while not (first.served and second.served):
            await greet.SayHello(ADA, timeout=10)
        secured = {channel.node.id: channel.secured is not None for channel in connections(opened)}
        assert secured == {one.node.id: True, two.node.id: False}


async def test_without_authorities_a_node_with_a_plain_port_is_called_there(
    registry: MemoryRegistry, authority: Authority
) -> None:
    service, own = greeter(registry, **authority.folder("greeter").settings, tls_plain_address="127.0.0.1:0")
    async with service:
        async with client(registry) as opened:
            await stub(opened).SayHello(ADA, timeout=10)
            assert [channel.secured for channel in connections(opened)] == [None]
        async with client(registry, **authority.folder("cart").settings) as opened:
            await stub(opened).SayHello(ADA, timeout=10)
            (connection,) = connections(opened)
            assert connection.secured.address == service.address
    assert own.served == 2


async def test_require_takes_no_node_in_plain_text(registry: MemoryRegistry, authority: Authority) -> None:
    service, own = greeter(registry)
    async with service, client(registry, client_tls="require", **authority.folder("cart").settings) as opened:
        for greet in (stub(opened), stub(opened, address=service.address)):
            assert "the node speaks plain text there, and this process wants TLS" in await failure(greet)
    assert own.served == 0


async def test_require_calls_addresses_over_tls_too(registry: MemoryRegistry, authority: Authority) -> None:
    service, own = greeter(MemoryRegistry(), **authority.folder("greeter").settings)
    settings = {"client_tls": "require", **authority.folder("cart").settings}
    async with service:
        port = service.address.rpartition(":")[2]
        async with client(registry, **settings) as opened:
            await stub(opened, address=service.address).SayHello(ADA, timeout=10)
            await stub(opened, address=f"localhost:{port}").SayHello(ADA, timeout=10)
        async with Client(
            registry="static", registry_address=f"greeter={service.address}", **settings
        ) as opened:
            await stub(opened).SayHello(ADA, timeout=10)
    assert own.served == 3


async def test_off_is_plain_text_whatever_the_record_says(
    registry: MemoryRegistry, authority: Authority
) -> None:
    service, own = greeter(registry, **authority.folder("greeter").settings, tls_plain_address="127.0.0.1:0")
    async with service, client(registry, client_tls="off", **authority.folder("cart").settings) as opened:
        await stub(opened).SayHello(ADA, timeout=10)
        assert [channel.secured for channel in connections(opened)] == [None]
    assert own.served == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"client_tls": "require"}, "client_tls require: set tls_ca, or tls_dir"),
        ({"tls_server_name": "{pod}"}, "tls_server_name '{pod}': '{pod}' is nothing that can be filled in"),
        ({"tls_server_name": "{service}.{namespace}.svc"}, "no namespace is known here"),
        ({"tls_server_name": ""}, "tls_server_name is empty"),
        ({"tls_server_name": "{service}..svc"}, r"no certificate can be for the name 'a\.\.svc'"),
        ({"tls_server_name": "{service}:443"}, "no certificate can be for the name 'a:443'"),
        ({"tls_cert": "/nowhere"}, "tls_cert is set and tls_key is not"),
    ],
)
async def test_settings_that_cannot_work_are_errors(
    registry: MemoryRegistry, settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        client(registry, **settings)


# Names

IN_A_NAMESPACE = {"tls_server_name": "{service}.{namespace}.svc", "registry_namespace": "shop"}


@pytest.mark.parametrize(
    ("names", "settings", "options"),
    [
        (["greeter"], {}, ()),
        (["greeter.shop.svc"], IN_A_NAMESPACE, ()),
        (["internal.example"], {"tls_server_name": "internal.example"}, ()),
        (["other"], {}, (("grpc.ssl_target_name_override", "other"),)),
        (["*.shop.example"], {"tls_server_name": "{service}.shop.example"}, ()),
        (["internal.example"], {"tls_server_name": "Internal.example."}, ()),
        (["xn--bcher-kva"], {"tls_server_name": "bücher"}, ()),
        (["::1", "cart"], {"tls_server_name": "::1"}, ()),
    ],
)  # fmt: skip
async def test_the_name_in_the_certificate(
    registry: MemoryRegistry,
    authority: Authority,
    names: list[str],
    settings: dict[str, str],
    options: tuple[Any, ...],
) -> None:
    service, _ = greeter(registry, **authority.folder(*names).settings)
    async with service, client(registry, **authority.folder("cart").settings, **settings) as opened:
        await stub(opened, options=options).SayHello(ADA, timeout=10)


@pytest.mark.parametrize("name", ["a..b", "a" * 64, "a." * 200, "greeter\0", "gre eter", "greeter:443"])
async def test_a_name_that_no_certificate_can_have_is_told_so(
    registry: MemoryRegistry, authority: Authority, name: str
) -> None:
    service, own = greeter(registry, **authority.folder("greeter").settings)
    settings = {"client_tls": "require", **authority.folder("cart").settings}
    async with service, client(registry, **settings) as opened:
        calling = rpc.GreeterStub(opened.channel(name, address=service.address))
        text = await failure(calling)
        assert "no certificate can be for the name '" in text
        assert "say with tls_server_name which name nodes have" in text
    assert own.served == 0


async def test_two_services_at_one_address_are_two_names(
    registry: MemoryRegistry, authority: Authority
) -> None:
    service, _ = greeter(registry, **authority.folder("greeter").settings)
    async with service, client(registry, client_tls="require", **authority.folder("cart").settings) as opened:
        await stub(opened, address=service.address).SayHello(ADA, timeout=10)
        other = rpc.GreeterStub(opened.channel("other", address=service.address))
        assert "the node's certificate is not for the name 'other'" in await failure(other)


async def test_a_record_cannot_say_which_name_its_node_has_to_prove(
    registry: MemoryRegistry, authority: Authority
) -> None:
    """A node of another service that is in the set of this one, with a certificate that is sound."""
    service, own = greeter(MemoryRegistry(), **authority.folder("thief").settings)

    class Selector:
        name, uses_registry = "bad", False

        async def watch(self, asked: str) -> AsyncIterator[NodeSet]:
            yield NodeSet.of([Node("thief", service.address, "thief", metadata={TLS: "on"})])
            await asyncio.Event().wait()

        def refresh(self, asked: str) -> None: ...

        def describe(self, asked: str) -> str:
            return "a selector"

    async with service, client(registry, selector=Selector(), **authority.folder("cart").settings) as opened:
        assert "the node's certificate is not for the name 'greeter'" in await failure(stub(opened))
    assert own.served == 0


# New certificates


@contextlib.asynccontextmanager
async def pair(
    registry: MemoryRegistry, authority: Authority, **settings: Any
) -> AsyncIterator[tuple[Client, Folder, Greeter]]:
    """A client with a certificate of its own, and a node that it has called."""
    service, own = greeter(registry, **authority.folder("greeter").settings)
    folder = authority.folder("cart")
    async with service, client(registry, **folder.settings, **settings) as opened:
        await stub(opened).SayHello(ADA, timeout=10)
        yield opened, folder, own


async def test_a_new_certificate_is_shown_on_a_new_connection_and_the_old_one_drains(
    registry: MemoryRegistry, authority: Authority
) -> None:
    async with pair(registry, authority) as (opened, folder, own):
        (before,) = connections(opened)
        slow = stub(opened).SayHello(SLOW, timeout=30)
        await own.begun.wait()
        folder.issue(authority.ca, "cart")
        await eventually(lambda: connections(opened) != [before], "another connection takes its place")
        (after,) = connections(opened)
        assert after.pickable
        assert after.secured.identity == opened.identity.current
        assert before in opened.core.leaving
        await stub(opened).SayHello(ADA, timeout=10)
        own.go.set()
        assert (await slow).message == "Hello slow"
        await eventually(lambda: before not in opened.core.leaving, "the old one is closed")
        assert before.state is grpc.ChannelConnectivity.READY  # nobody had lost it


async def test_one_that_the_node_does_not_believe_costs_no_call(
    registry: MemoryRegistry, authority: Authority
) -> None:
    async with pair(registry, authority) as (opened, folder, own):
        (before,) = connections(opened)
        stranger = trustme.CA()
        folder.issue(stranger, "cart", believe=pem_of(authority.ca) + pem_of(stranger))
        await eventually(lambda: opened.identity.taken == 2, "it is taken")
        pool = opened.core._pool
        await eventually(
            lambda: any(one.failed for one, _ in pool._coming.values()), "the new connection is refused"
        )
        for _ in range(20):
            await stub(opened).SayHello(ADA, timeout=10)
        assert connections(opened) == [before]
        # And the next one is taken again.
        folder.issue(authority.ca, "cart")
        await eventually(lambda: connections(opened) != [before], "another connection takes its place")
        await stub(opened).SayHello(ADA, timeout=10)
        assert not pool._coming
    assert own.served == 22


async def test_a_connection_that_failed_is_tried_at_once_with_a_new_certificate(
    registry: MemoryRegistry, authority: Authority
) -> None:
    service, _ = greeter(registry, **authority.folder("greeter").settings)
    stranger = trustme.CA()
    folder = authority.folder("cart")
    folder.issue(stranger, "cart", believe=pem_of(authority.ca) + pem_of(stranger))
    async with service, client(registry, **folder.settings) as opened:
        await failure(stub(opened))
        folder.issue(authority.ca, "cart")
        await stub(opened).SayHello(ADA, timeout=20, wait_for_ready=True)


async def test_channels_that_share_a_connection_go_over_to_one(
    registry: MemoryRegistry, authority: Authority
) -> None:
    async with pair(registry, authority) as (opened, folder, _):
        other = stub(opened, endpoint="Greeter.SayHello")
        await other.SayHello(ADA, timeout=10)
        before = connections(opened)
        assert before[0] is before[1]
        folder.issue(authority.ca, "cart")
        await eventually(
            lambda: all(one not in before for one in connections(opened)), "both have another connection"
        )
        after = connections(opened)
        assert after[0] is after[1]
        await other.SayHello(ADA, timeout=10)
        await eventually(lambda: not opened.core.leaving, "the old one is closed")


async def test_a_channel_that_is_dropped_meanwhile_leaves_nothing(
    registry: MemoryRegistry, authority: Authority
) -> None:
    async with pair(registry, authority) as (opened, folder, own):
        slow = asyncio.ensure_future(stub(opened).SayHello(SLOW, timeout=30))
        await own.begun.wait()
        folder.issue(authority.ca, "cart")
        await eventually(lambda: bool(opened.core.leaving), "another connection takes its place")
        await registry.deregister((await opened.nodes("greeter"))[0])
        own.go.set()
        await slow
        await eventually(lambda: not opened.core.leaving, "both are closed")
        assert not opened.core._pool._channels


async def test_a_node_that_speaks_tls_from_now_on_is_called_so_without_a_failed_call(
    registry: MemoryRegistry, authority: Authority
) -> None:
    """A labelled pod, whose record somebody edits."""
    service, _ = greeter(
        MemoryRegistry(), **authority.folder("greeter").settings, tls_plain_address="127.0.0.1:0"
    )
    async with service, client(registry, **authority.folder("cart").settings) as opened:
        node = service.node
        plain = Node(node.id, node.address, "greeter", metadata={"protocol": "grpc"})
        await registry.register(plain)
        greet = stub(opened)
        await greet.SayHello(ADA, timeout=10)
        (before,) = connections(opened)
        assert before.secured is None
        await registry.register(Node(node.id, node.address, "greeter", metadata={TLS: node.metadata[TLS]}))
        while connections(opened) == [before]:
            await greet.SayHello(ADA, timeout=10)
        (after,) = connections(opened)
        assert after.secured.address == service.address
        await greet.SayHello(ADA, timeout=10)


async def test_the_health_that_nodes_tell_is_asked_on_the_new_connection(
    registry: MemoryRegistry, authority: Authority
) -> None:
    service, _ = greeter(MemoryRegistry(), **authority.folder("greeter").settings)
    folder = authority.folder("cart")
    async with service, client(registry, client_tls="require", **folder.settings) as opened:
        greet = stub(opened, address=service.address)
        await greet.SayHello(ADA, timeout=10)
        (target,) = opened.core.targets
        (before,) = connections(opened)
        healths = target.healths
        assert healths is not None
        await eventually(lambda: [one for one, _, _ in healths._watches.values()] == [before], "it watches")
        folder.issue(authority.ca, "cart")
        await eventually(lambda: connections(opened) != [before], "another connection takes its place")
        await eventually(
            lambda: [one for one, _, _ in healths._watches.values()] == connections(opened), "it watches that"
        )
        service.set_health(False)
        await eventually(lambda: bool(healths.unwell), "it hears of it")
        service.set_health(True)
        await eventually(lambda: not opened.core.leaving, "the old one is closed")
