"""Network namespaces: one that is the node, and one for each pod, routed through the node.

A pod's veth ends in the node's namespace, and pods reach each other and the node by routes, as with Calico:
no bridge, no packet filter, so that iproute2 is all it takes.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

CLONE_NEWNET = 0x40000000

PODS = IPv4Network("10.244.0.0/24")
# The node's own address among its pods: their gateway and name server.
GATEWAY = str(PODS[1])
# ClusterIPs; the API server must be told the same.
SERVICES = IPv4Network("10.96.0.0/24")

# No interface has it: what is sent there, nobody takes.
NOBODY = "02:00:00:00:00:01"


class IpFailed(Exception):
    """The program `ip` failed."""


def new_namespace() -> int:
    """A new network namespace; it lives until the descriptor is closed and no process is in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    made: list[int] = []
    errors: list[int] = []

    def make() -> None:
        # Namespaces belong to threads: this one goes into the new one, and ends there.
        if libc.unshare(CLONE_NEWNET) != 0:
            errors.append(ctypes.get_errno())
            return
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if errors:
        raise OSError(errors[0], os.strerror(errors[0]), "unshare(CLONE_NEWNET)")
    return made[0]


def path_of(descriptor: int) -> str:
    """A path by which other processes find this process's descriptor."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def inside(namespace: str) -> tuple[str, ...]:
    """What a command is started through to run in a network namespace, given as a path."""
    return ("nsenter", f"--net={namespace}", "--")


def interface(ip: str) -> str:
    """The node's end of a pod's veth."""
    return f"pod{int(ip.rpartition('.')[2])}"


def swallow(ip: str) -> list[str]:
    """Lines for `ip -batch` in the node's namespace: packets to a pod vanish, as `iptables … DROP` has it."""
    return [f"neighbour replace {ip} dev {interface(ip)} lladdr {NOBODY} nud permanent"]


def deliver(ip: str) -> list[str]:
    """The opposite of `swallow`."""
    return [f"neighbour delete {ip} dev {interface(ip)}"]


def swallow_own() -> list[str]:
    """In a pod's namespace: its own packets vanish."""
    return [f"neighbour replace {GATEWAY} dev eth0 lladdr {NOBODY} nud permanent"]


def deliver_own() -> list[str]:
    """The opposite of `swallow_own`."""
    return [f"neighbour delete {GATEWAY} dev eth0"]


def route_to(ip: str, pod: str) -> list[str]:
    """In the node's namespace: packets to `ip` go to the pod whose own address is `pod`."""
    return [f"route replace {ip}/32 dev {interface(pod)}"]


def answer_for(ip: str) -> list[str]:
    """In a pod's namespace: `ip` is its own, too."""
    return [f"address add {ip}/32 dev eth0"]


def answer_no_more_for(ip: str) -> list[str]:
    """The opposite of `answer_for`."""
    return [f"address delete {ip}/32 dev eth0"]


async def run_ip(lines: Sequence[str], prefix: Sequence[str] = ()) -> None:
    """Run lines of `ip` in one process.

    Raises:
        IpFailed: A line failed; those before it have been done.
    """
    process = await asyncio.create_subprocess_exec(
        *(*prefix, "ip", "-batch", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    if process.returncode:
        raise IpFailed(f"ip: {output.decode().strip()} ({'; '.join(lines)})")


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A pod's network namespace and address; both outlive its containers."""

    ip: str
    descriptor: int

    @property
    def namespace(self) -> str:
        """Its path."""
        return path_of(self.descriptor)


class Network:
    """Addresses and routes of one node; the process must run in the node's network namespace."""

    def __init__(self) -> None:
        # Round and round, as CNI's host-local does: an address is used again as late as can be.
        self._next = itertools.cycle(range(2, PODS.num_addresses - 1))
        self._taken: set[str] = set()

    async def prepare(self) -> None:
        """Make the namespace a node: addresses, forwarding, and ClusterIPs that end here."""
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # noqa: ASYNC240 – no disk is behind it
        await run_ip(
            [
                "link set lo up",
                f"address add {GATEWAY}/32 dev lo",
                # Every address of the range is local, so that a listener can be bound to any.
                f"route add local {SERVICES} dev lo",
            ]
        )

    async def add(self) -> PodNetwork:
        """A namespace with the next free address."""
        ip = next(
            address
            for address in (str(PODS[number]) for number in itertools.islice(self._next, PODS.num_addresses))
            if address not in self._taken
        )
        self._taken.add(ip)
        pod = PodNetwork(ip, new_namespace())
        try:
            await run_ip(
                [
                    f"link add {interface(ip)} type veth peer name eth0 netns {pod.namespace}",
                    f"link set {interface(ip)} up",
                    f"route add {ip}/32 dev {interface(ip)}",
                ]
            )
            await run_ip(
                [
                    "link set lo up",
                    f"address add {ip}/32 dev eth0",
                    "link set eth0 up",
                    f"route add {GATEWAY}/32 dev eth0",
                    f"route add default via {GATEWAY}",
                ],
                prefix=inside(pod.namespace),
            )
        except BaseException:
            os.close(pod.descriptor)
            self._taken.discard(ip)
            raise
        return pod

    async def remove(self, pod: PodNetwork) -> None:
        """Give the address back; nothing of the pod may be running."""
        await run_ip([f"link delete {interface(pod.ip)}"])
        os.close(pod.descriptor)
        self._taken.discard(pod.ip)
