"""What tests of registry `mdns` share: a link of their own, and clients that know nothing of it."""

from __future__ import annotations

import socket

from pymicro.config import load
from pymicro.node import Node
from pymicro.registry.mdns import MdnsRegistry, Timing

# A node that is killed is missed after a second, not a quarter of a minute.
QUICK = Timing(answer=0.15, first=0.1, longest=0.3)


def free_port() -> int:
    """A UDP port of this test's own: two runs of the tests must not hear each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make(port: int, *, timing: Timing = QUICK) -> MdnsRegistry:
    """A registry on the loopback interface."""
    return MdnsRegistry(load({"registry_address": f"127.0.0.1:{port}"}, environ={}), timing=timing)


def node(number: int = 1, service: str = "greeter", **changes: object) -> Node:
    """A node of `service`."""
    fields: dict[str, object] = {
        "id": f"{service}-{number}",
        "address": f"127.0.0.1:{20000 + number}",
        "service": service,
        "version": "1.2.3",
        "metadata": {"protocol": "grpc"},
    }
    return Node(**(fields | changes))  # type: ignore[arg-type]
