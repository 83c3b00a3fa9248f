"""Registry `mdns` passes the contract suite, on a UDP port of each test's own."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from pymicro.discovery.registries.local.json import dump_node
from pymicro.discovery.registries.mdns import MdnsRegistry, link
from pymicro.discovery.registries.mdns.interfaces import Interface
from pymicro.nodes.node import Node
from pymicro.testing.registry import RegistryContract
from tests.discovery.registries.mdns_support import free_port, make
from tests.discovery.registries.owners import owner

OWNER = str(Path(__file__).with_name("mdns_owner.py"))


class TestMdns(RegistryContract):
    patience = 15.0

    @pytest.fixture(autouse=True)
    def _link(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port = free_port()
        self.monkeypatch = monkeypatch
        self.joined: list[socket.socket] = []
        self.broken = False
        join = link.group_socket

        def joining(interface: Interface, port: int) -> socket.socket:
            if self.broken:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            self.joined.append(join(interface, port))
            return self.joined[-1]

        monkeypatch.setattr(link, "group_socket", joining)

    def make(self) -> MdnsRegistry:
        return make(self.port)

    def owner(self, node: Node) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return owner(OWNER, f"127.0.0.1:{self.port}", dump_node(node))

    # What the kernel does when an interface goes and comes back, which a test cannot do to `lo`:
    # memberships are lost, and new ones are refused until it is there again.

    async def break_source(self) -> None:
        self.broken = True
        for opened in self.joined:
            if opened.fileno() >= 0:
                membership = socket.inet_aton(link.GROUP4) + socket.inet_aton("127.0.0.1")
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)

    async def mend_source(self) -> None:
        self.broken = False
