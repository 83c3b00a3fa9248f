"""Under which addresses this machine is reached."""

from __future__ import annotations

import socket

import pytest

from pymicro.nodes import address
from pymicro.nodes.address import private_host, source_host


def test_the_private_address_is_that_of_the_default_route_before_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interfaces = ["127.0.0.1", "169.254.1.1", "172.17.0.1", "10.0.0.5"]
    monkeypatch.setattr(address, "_interface_hosts", lambda: iter(interfaces))
    for route, wanted in [
        ("10.0.0.5", "10.0.0.5"),
        ("203.0.113.9", "172.17.0.1"),  # a public address: the first of the private ones
        ("fd00::1", "172.17.0.1"),
        (None, "172.17.0.1"),  # no default route
    ]:
        monkeypatch.setattr(address, "source_host", lambda target, route=route: route)
        assert private_host() == wanted
    interfaces[2:] = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.2.2"]
    assert private_host() is None


def test_the_address_to_a_target_is_one_of_this_machine() -> None:
    assert source_host("127.0.0.1") is None
    assert source_host("::1") is None
    assert source_host("nobody.invalid") is None
    if found := source_host("192.0.2.1"):  # nothing where there is no route
        with socket.socket(socket.AF_INET) as sock:
            sock.bind((found, 0))


def test_the_interfaces_are_those_of_this_machine() -> None:
    found = list(address._interface_hosts())
    assert found
    for host in found:
        with socket.socket(socket.AF_INET) as sock:
            sock.bind((host, 0))
