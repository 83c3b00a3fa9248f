"""Registry `etcd`: what its settings may say, and under which address its nodes are."""

from __future__ import annotations

import re

import pytest

from pymicro.base.errors import ConfigError
from pymicro.discovery.registries.etcd.endpoints import find_endpoints, learned
from pymicro.settings.config import load
from tests.discovery.registries.etcd_support import etcd_registry, node


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ((), ("127.0.0.1:2379",)),
        (("10.0.0.1",), ("10.0.0.1:2379",)),
        (("10.0.0.1:1", "etcd.example"), ("10.0.0.1:1", "etcd.example:2379")),
        (("http://10.0.0.1/", "http://10.0.0.2:3"), ("10.0.0.1:2379", "10.0.0.2:3")),
        (("HTTPS://etcd.example.",), ("etcd.example.:2379",)),
        (("::1", "[::1]:5", "http://[fd00::1]"), ("[::1]:2379", "[::1]:5", "[fd00::1]:2379")),
        (("etcd-0.etcd", "etcd-0.etcd:2379"), ("etcd-0.etcd:2379",)),
    ],
)
def test_an_address_is_host_and_port_with_or_without_a_scheme(
    entries: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    assert find_endpoints(load({"registry_address": entries}, environ={})).addresses == wanted


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("ftp://10.0.0.1", "ftp:// is neither http:// nor https://"),
        ("unix:///run/etcd.sock", "unix:// is neither"),
        ("http://10.0.0.1:2379/v3", "there is something behind host and port"),
        ("10.0.0.1:2379?x", "there is something behind host and port"),
        ("root:secret@10.0.0.1", "a user is given by registry_user and registry_password"),
        ("10.0.0.1:0", "0 is no port that can be reached"),
        ("10.0.0.1:http", "'http' is no port"),
        (":2379", "the host is missing"),
        ("http://", "the host is missing"),
        ("[::1", "lacks its closing bracket"),
        ("[etcd]:2379", "is no host"),
        ("a b", "'a b' is no host"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_the_reason(entry: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)) as caught:
        etcd_registry(entry)
    assert str(caught.value).startswith("registry_address of registry etcd: ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_schemes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="has both http:// and https://"):
        etcd_registry("http://10.0.0.1", "https://10.0.0.2")
    with pytest.raises(ConfigError, match="says http:// and registry_tls_ca asks for TLS"):
        etcd_registry("http://10.0.0.1", registry_tls_ca="ca.pem")


@pytest.mark.parametrize(
    ("given", "lacking"),
    [("registry_tls_cert", "registry_tls_key"), ("registry_tls_key", "registry_tls_cert")],
)
def test_a_certificate_needs_its_key(given: str, lacking: str) -> None:
    with pytest.raises(ConfigError, match=f"^{given} without {lacking}: certificate and key belong together"):
        etcd_registry("10.0.0.1", **{given: "x.pem"})


def test_it_says_where_it_looks() -> None:
    assert etcd_registry().describe() == "registry etcd (127.0.0.1:2379)"
    assert etcd_registry("a", "b").describe() == "registry etcd (a:2379, b:2379)"
    five = etcd_registry("a", "b", "c", "d", "e")
    assert five.describe() == "registry etcd (a:2379, b:2379, c:2379 and 2 more)"
    assert (
        repr(five)
        == "<EtcdRegistry 'registry etcd (a:2379, b:2379, c:2379 and 2 more)' watches=0 unreadable=0>"
    )


# Addresses


def test_with_etcd_on_this_machine_nodes_are_on_loopback() -> None:
    for entries in ((), ("localhost",), ("127.0.0.2:1", "[::1]")):
        assert etcd_registry(*entries).advertised_host() == "127.0.0.1"


def test_with_etcd_elsewhere_nodes_are_at_the_first_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymicro.discovery.registries.etcd.private_host", lambda: "10.1.2.3")
    for entries in (("10.0.0.1",), ("localhost", "10.0.0.1")):
        assert etcd_registry(*entries).advertised_host() == "10.1.2.3"


def test_without_a_private_address_it_is_the_one_from_which_etcd_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pymicro.discovery.registries.etcd.private_host", lambda: None)
    monkeypatch.setattr("pymicro.discovery.registries.etcd.source_host", {"10.0.0.1": "198.51.100.7"}.get)
    assert etcd_registry("10.0.0.1").advertised_host() == "198.51.100.7"
    with pytest.raises(ConfigError, match="no address that others could reach: give --server-advertise"):
        etcd_registry("10.0.0.2").advertised_host()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost", "0.0.0.0", "[::]"])
async def test_an_address_that_nobody_else_can_reach_is_refused(host: str) -> None:
    async with etcd_registry("10.255.255.1") as registry:
        with pytest.raises(ConfigError, match=r"which nobody else can reach: listen on 0\.0\.0\.0"):
            await registry.register(node(address=f"{host}:80"))


@pytest.mark.parametrize(
    ("given", "urls", "usable"),
    [
        ("10.0.0.1", ["http://10.0.0.2:2379", "http://10.0.0.3:1"], ["10.0.0.2:2379", "10.0.0.3:1"]),
        ("https://etcd.shop", ["https://etcd-1.shop:2379", "http://etcd-1.shop:2379"], ["etcd-1.shop:2379"]),
        ("10.0.0.1", ["https://10.0.0.2:2379"], []),
        ("10.0.0.1", ["http://127.0.0.1:2379", "http://localhost:2379", "http://[::1]:2379"], []),
        ("127.0.0.1", ["http://127.0.0.1:22379"], ["127.0.0.1:22379"]),
        ("10.0.0.1", ["http://0.0.0.0:2379", "http://[::]:2379", "unix://m0", "", "http://a b:1"], []),
        ("10.0.0.1", ["x" * 9999], []),
        ("10.0.0.1", [f"http://10.0.1.{n}" for n in range(200)], [f"10.0.1.{n}:2379" for n in range(16)]),
    ],
)  # fmt: skip
def test_what_the_cluster_says_of_its_members_is_used_where_it_can_be(
    given: str, urls: list[str], usable: list[str]
) -> None:
    endpoints = find_endpoints(load({"registry_address": [given]}, environ={}))
    assert learned(urls, endpoints) == tuple(usable)
