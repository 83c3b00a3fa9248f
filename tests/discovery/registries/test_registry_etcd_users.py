"""Registry `etcd` as a user: passwords, tokens that run out, and what a user may not do."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.etcd import EtcdRegistry
from pymicro.discovery.registries.etcd.client import EtcdClient
from pymicro.nodes.node import NodeSet
from pymicro.testing.waiting import first
from tests.discovery.registries.etcd_support import (
    PATIENCE,
    QUICK,
    ROOT,
    etcd_registry,
    node,
    record,
    watching,
)
from tests.etcd_server import Etcd

# Of etcd's simple tokens, in seconds; the least there is.
TOKEN_TTL = 1


@dataclass
class Users:
    """An etcd with users, of which `all` may do everything under the root and `reader` read one service."""

    etcd: Etcd
    token: str

    def registry(self, user: str, password: str = "secret", **settings: Any) -> EtcdRegistry:
        return etcd_registry(self.etcd.address, registry_user=user, registry_password=password, **settings)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    arguments = ["--auth-token=simple", f"--auth-token-ttl={TOKEN_TTL}", "--bcrypt-cost=4"]
    with Etcd(tmp_path_factory.mktemp("etcd"), arguments=arguments) as etcd:
        etcd.add_user("all", "secret", {ROOT: "READWRITE"})
        etcd.add_user("reader", "secret", {f"{ROOT}greeter/": "READ"})
        etcd.add_user("writer", "secret", {f"{ROOT}greeter/": "WRITE"})
        yield Users(etcd, etcd.enable_users("root"))


async def test_a_user_registers_and_watches(users: Users) -> None:
    async with users.registry("all") as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        assert await registry.services() == ["greeter"]
        await registry.deregister(node())
        await watcher.sees()


@pytest.mark.parametrize(("user", "password"), [("all", "wrong"), ("nobody", "secret"), ("all", "")])
async def test_a_wrong_password_is_told_and_not_shown(users: Users, user: str, password: str) -> None:
    async with users.registry(user, password) as registry:
        for asking in (registry.register(node()), first(registry.watch("greeter"), within=PATIENCE)):
            with pytest.raises(RegistryError) as caught:
                await asking
            wanted = f"{users.etcd.address} knows no user {user!r} with this password"
            assert wanted in str(caught.value)
            assert "registry_password" in str(caught.value)
            assert not password or password not in str(caught.value)


async def test_no_user_where_one_is_needed_is_told(users: Users) -> None:
    async with etcd_registry(users.etcd.address) as registry:
        with pytest.raises(RegistryError, match="wants a user: set registry_user and registry_password"):
            await registry.register(node())
        with pytest.raises(RegistryError, match="wants a user"):
            await first(registry.watch("greeter"), within=PATIENCE)


def test_a_password_without_a_user_is_refused() -> None:
    with pytest.raises(ConfigError, match="registry_password is set and registry_user is not"):
        etcd_registry("localhost", registry_password="secret")


async def test_what_a_user_may_not_read_is_named_with_the_permission_that_is_missing(users: Users) -> None:
    async with users.registry("reader") as registry:
        with pytest.raises(RegistryError) as caught:
            await first(registry.watch("shop"), within=PATIENCE)
        assert str(caught.value) == (
            "registry etcd: cannot read /micro/registry/shop/*: user 'reader' lacks the permission read on "
            f"/micro/registry/shop/* at {users.etcd.address} "
            "(etcdctl role grant-permission ROLE --prefix read /micro/registry/shop/)"
        )
        with pytest.raises(RegistryError, match=r"user 'reader' lacks the permission write on /micro/.*-1 "):
            await registry.register(node())
        async with watching(registry) as watcher:
            await watcher.sees()


async def test_a_denied_watch_is_told_after_one_try_with_a_fresh_token(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is allowed and watching is not: of a key that the user may not read."""
    real, asked = EtcdClient.watch_request, []

    def request(prefix: str, revision: int) -> Any:
        asked.append(prefix)
        return real(f"{ROOT}shop/", revision)

    monkeypatch.setattr(EtcdClient, "watch_request", staticmethod(request))
    async with users.registry("reader") as registry:
        watch = registry.watch("greeter")
        assert not await first(watch, within=PATIENCE)
        with pytest.raises(RegistryError) as caught:
            async with asyncio.timeout(PATIENCE):
                async for _ in watch:
                    pass
    assert "cannot watch /micro/registry/greeter/*: user 'reader' lacks the permission read" in str(
        caught.value
    )
    assert len(asked) == 2


async def test_who_may_read_and_not_write_is_told_and_leaves_nothing_to_take_back(
    users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    root = users.etcd.root_token("root")
    before = users.etcd.ask("lease/leases", {}, root).get("leases")
    async with users.registry("reader") as registry:
        for _ in range(2):
            with pytest.raises(RegistryError, match="user 'reader' lacks the permission write on"):
                await registry.register(node())
        assert await first(registry.watch("greeter"), within=PATIENCE, service="greeter") == NodeSet()
        await registry.deregister(node())
    assert users.etcd.ask("lease/leases", {}, root).get("leases") == before
    assert "taken back" not in caplog.text


async def test_who_may_write_and_not_read_registers_all_the_same(users: Users) -> None:
    writer, registry = users.registry("writer"), users.registry("all")
    async with writer, registry, watching(registry) as watcher:
        await writer.register(node())
        await watcher.sees(node())
        users.etcd.ask("kv/deleterange", {"key": KEY}, users.etcd.root_token("root"))
        await watcher.sees()
        await writer.register(node())
        await watcher.sees(node())


KEY = base64.b64encode(f"{ROOT}greeter/greeter-1".encode()).decode()
OTHER_KEY = base64.b64encode(f"{ROOT}greeter/other".encode()).decode()


def token_of(registry: EtcdRegistry) -> str:
    """With which it asked last."""
    client, _, _ = registry._opened()
    return client.members.account.token


@pytest.mark.once
async def test_a_token_that_ran_out_is_renewed(users: Users, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that is longer than a token is good for, and etcd's second between two looks, is the clock."""
    async with users.registry("all") as registry, watching(registry) as watcher:
        await registry.register(node(1))
        await watcher.sees(node(1))
        token = token_of(registry)
        root = users.etcd.root_token("root")
        lease = int(users.etcd.ask("lease/grant", {"TTL": TOKEN_TTL + 2}, root)["ID"])
        value = base64.b64encode(record([{"id": "n", "address": "10.0.0.1:80"}]).encode()).decode()
        users.etcd.ask("kv/put", {"key": OTHER_KEY, "value": value, "lease": lease}, root)
        await watcher.sees_addresses([node(1).address, "10.0.0.1:80"])
        await watcher.sees(node(1))
        await registry.register(node(2))
        await watcher.sees(node(1), node(2))
        assert token_of(registry) not in ("", token)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_token_that_etcd_forgot_is_renewed_for_all_who_ask_at_once(users: Users) -> None:
    # The watch says nothing of the outage, however long etcd takes to start.
    timing = replace(QUICK, grace=PATIENCE)
    async with users.registry("all", timing=timing) as registry, watching(registry) as watcher:
        await watcher.sees()
        token = token_of(registry)
        await asyncio.to_thread(users.etcd.stop)
        await asyncio.to_thread(users.etcd.start)
        nodes = [node(number) for number in range(20)]
        await asyncio.gather(*map(registry.register, nodes))
        await watcher.sees(*nodes)
        assert token_of(registry) not in ("", token)


def change(etcd: Etcd, password: str) -> None:
    # With a token of its own: one that is not used for a second is good for nothing.
    body = {"name": "changing", "password": password}
    etcd.ask("auth/user/changepw", body, etcd.root_token("root"))


async def test_a_password_that_was_changed_is_told(users: Users) -> None:
    root = users.etcd.root_token("root")
    users.etcd.add_user("changing", "secret", {f"{ROOT}greeter/": "READWRITE"}, root)
    async with users.registry("changing") as registry:
        await registry.register(node())
        change(users.etcd, "other")
        with pytest.raises(RegistryError, match="knows no user 'changing' with this password"):
            await registry.register(node())
        change(users.etcd, "secret")
        await registry.register(node())


async def test_users_switched_off_are_done_without_and_asked_for_when_they_are_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro")
    with Etcd(tmp_path, arguments=["--bcrypt-cost=4"]) as etcd:
        etcd.add_user("all", "secret", {ROOT: "READWRITE"})
        registry = etcd_registry(etcd.address, registry_user="all", registry_password="secret")
        async with registry, watching(registry) as watcher:
            await registry.register(node(1))
            await watcher.sees(node(1))
            assert caplog.text.count("has no users switched on: going on without registry_user 'all'") == 1
            etcd.enable_users("root")
            await registry.register(node(2))
            await watcher.sees(node(1), node(2))
            assert token_of(registry)
