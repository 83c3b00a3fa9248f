from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Endpoint, Node, Value
from pymicro.settings.config import load
from tests.cli_support import Commands, Result
from tests.described import DescribedServer
from tests.shop import SERVICES, V1, V1ALPHA, ShopServer, shop_files

SHOP = """\
shop.v1.Shop/Buy           Order                        → Receipt
shop.v1.Shop/Track         Order                        → stream Receipt
shop.v1.Shop/Collect       stream Order                 → Receipt
shop.v1.Shop/Haggle        stream Order                 → stream Receipt
shop.v1.Shop/Find          google.protobuf.StringValue  → Receipt
shop.v1.Warehouse/Restock  Order                        → Receipt
shop.v1.Warehouse/Find     google.protobuf.StringValue  → Receipt
"""


@asynccontextmanager
async def registered(folder: str, *nodes: Node) -> AsyncIterator[None]:
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        for node in nodes:
            await registry.register(node)
        yield


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_methods_are_listed_with_their_shapes(
    pymicro: Commands, registry_folder: str, version: str
) -> None:
    async with (
        ShopServer((version,), (*SERVICES, V1ALPHA)) as server,
        # The other node does not answer, and no method is lost by that.
        registered(registry_folder, Node("a", "127.0.0.1:1", "shop"), Node("b", server.address, "shop")),
    ):
        assert await pymicro("list", "shop") == Result(0, SHOP, "")


async def test_one_node_is_asked_without_a_registry(pymicro: Commands) -> None:
    async with ShopServer((V1,), ("shop.v1.Shop", "grpc.health.v1.Health")) as server:
        wide = await pymicro("list", "x", "-a", "-o", "wide", "--address", server.address)
        assert (wide.code, wide.err) == (
            0,
            "the server names grpc.health.v1.Health and does not describe it: "
            "the server's reflection does not know grpc.health.v1.Health\n",
        )
        assert wide.out.splitlines()[0] == "grpc.health.v1.Health  (not described)"
        assert wide.out.splitlines()[1].split() == [
            "shop.v1.Shop/Buy", "shop.v1.Order", "→", "shop.v1.Receipt",
        ]  # fmt: skip
        result = await pymicro("list", "x", "-o", "json", "--address", server.address)
        (service,) = json.loads(result.out)
        assert service["name"] == "shop.v1.Shop"
        assert service["methods"][1] == {
            "name": "Track",
            "request": "shop.v1.Order",
            "response": "shop.v1.Receipt",
            "client_streaming": False,
            "server_streaming": True,
            "deprecated": False,
        }
        result = await pymicro("list", "x", "--address", server.address, PYTHONIOENCODING="ascii")
        assert result.out.splitlines()[1].split() == [
            "shop.v1.Shop/Track", "Order", "->", "stream", "Receipt",
        ]  # fmt: skip


async def test_a_server_with_nothing_of_its_own_says_what_is_hidden(pymicro: Commands) -> None:
    async with DescribedServer(shop_files(), ["grpc.health.v1.Health"]) as server:
        result = await pymicro("list", "x", "--address", server.address)
    assert result == Result(0, "", "nothing but grpc.health.v1.Health: --all lists these\n")


async def test_without_reflection_the_registry_record_is_listed(
    pymicro: Commands, registry_folder: str
) -> None:
    endpoints = (
        Endpoint("Shop.Buy", Value("Order", "Order"), Value("Receipt", "Receipt")),
        Endpoint("Shop.Track", Value("Order", "Order"), None, {"stream": "true"}),
    )
    async with ShopServer(()) as server:
        node = Node("a", server.address, "shop", endpoints=endpoints)
        plain = Node("b", server.address, "plain")
        async with registered(registry_folder, node, plain):
            result = await pymicro("list", "shop")
            assert result == Result(
                0,
                "Shop/Buy    Order  → Receipt\nShop/Track  Order  → ?  (stream)\n",
                "the server offers no reflection (neither v1 nor v1alpha): "
                "this is what its registry record lists\n",
            )
            result = await pymicro("list", "shop", "-o", "json")
            assert json.loads(result.out)[0]["methods"][1]["server_streaming"] is None
            assert await pymicro("list", "plain") == Result(
                1,
                "",
                "pymicro list: the server offers no reflection (neither v1 nor v1alpha), "
                "and no registry record lists its endpoints\n",
            )


async def test_a_service_that_is_not_there_is_one_message(pymicro: Commands, registry_folder: str) -> None:
    async with registered(registry_folder, Node("a", "127.0.0.1:1", "shop")):
        result = await pymicro("list", "shp")
        assert result == Result(
            1,
            "",
            f"no node of shp: registry local ({registry_folder}) lists 0 nodes; did you mean 'shop'?\n",
        )
        result = await pymicro("list", "shop", "--client-request-timeout", "5s")
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("pymicro list: UNAVAILABLE: failed to connect to all addresses")
        assert result.err.count("\n") == 1
    result = await pymicro("list", "shop", "--address", "nowhere")
    assert result == Result(2, "", "pymicro list: --address: 'nowhere' has no port (host:port)\n")
