"""Whether nodes can be reached and take calls: looks up their names, and calls each of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pymicro.base.errors import ConfigError
from pymicro.base.findings import Finding
from pymicro.base.printable import shortened
from pymicro.nodes.address import is_ip, join_address, split_address
from pymicro.nodes.node import Node

if TYPE_CHECKING:
    from pymicro.calling.connections.client_tls import ClientTls
    from pymicro.settings.config import Config

__all__ = ["DIALLED", "check_nodes", "in_order", "resolve"]

T = TypeVar("T")

# This many nodes show what is wrong, and not every doctor calls all nodes of a large service.
DIALLED = 20

_CONNECT_TIMEOUT = 3.0
_HEALTH_TIMEOUT = 3.0
_DNS_TIMEOUT = 5.0

_NAME_MISSING = (
    "on Kubernetes: is there a Service of that name in this pod's namespace (kubectl get service)? "
    "One in another namespace is found with STATIC_SELECTOR_DOMAIN_NAME=NAMESPACE"
)
_DROPPED = (
    "its machine is gone, or a firewall or NetworkPolicy drops what is sent, or this process is in "
    "another network (the IPs of pods are reached from inside the cluster: kubectl exec)"
)
_REFUSED = (
    "its process has ended, listens at another port, or only at 127.0.0.1 (--server-address 0.0.0.0:PORT)"
)
_NO_GRPC = "something else listens there (HTTP/1, TLS: is the port right?), or its process is stopped"
# Why a node is not well it tells nobody but its own log.
_NOT_SERVING = (
    "see its log: a start that waits for something (on_start), or the reason of a health check or set_health"
)
_HANGS = "its event loop is blocked (a handler that computes or waits without await), or it is no gRPC"


async def resolve(node: Node) -> tuple[list[Finding], list[Node]]:
    """Look up the name of a node of kind `name` in the DNS.

    Returns:
        The findings, and a node for each address.
    """
    try:
        host, port = split_address(node.address)
    except ValueError as exc:
        return [Finding("DNS", "problem", f"{node.address}: {exc}")], []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_DNS_TIMEOUT):
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        text = f"no DNS server answered for {host} in {_DNS_TIMEOUT:g} s"
        return [Finding("DNS", "problem", text, "see the name servers in /etc/resolv.conf")], []
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        return [Finding("DNS", "problem", f"{host} does not resolve: {reason}", _NAME_MISSING)], []
    addresses = sorted({str(answer[4][0]) for answer in answers})
    nodes = [
        Node(id=address, address=join_address(address, port), service=node.service) for address in addresses
    ]
    listed = ", ".join(addresses[:DIALLED]) + (", …" if len(addresses) > DIALLED else "")
    findings = [Finding("DNS", "ok", f"{host} is {listed}")]
    if len(addresses) == 1 and not is_ip(host):
        findings.append(
            Finding(
                "DNS",
                "note",
                "one address: if it is a Service's ClusterIP, all calls of a client go to one pod "
                "until its connection ends",
                "a headless Service (clusterIP: None) spreads calls; else set max_connection_age in servers",
            )
        )
    return findings, nodes


async def check_nodes(nodes: Sequence[Node], config: Config, tls: ClientTls | None) -> AsyncIterator[Finding]:
    """Connect to the first `DIALLED` nodes, all at once, and ask each for its health."""
    async for finding in in_order(_check(node, config, tls) for node in nodes[:DIALLED]):
        yield finding
    if len(nodes) > DIALLED:
        yield Finding("nodes", "note", f"{len(nodes) - DIALLED} more nodes were not called")


async def in_order(checks: Iterable[Coroutine[Any, Any, T]]) -> AsyncIterator[T]:
    """Do all checks at once, and give what they found in their order; leaving ends those that go on."""
    tasks = [asyncio.ensure_future(check) for check in checks]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _check(node: Node, config: Config, tls: ClientTls | None) -> Finding:
    what = f"node {node.address}"
    try:
        secured = tls.of(node, node.service) if tls is not None else None
    except ConfigError as exc:
        return Finding(what, "problem", str(exc))
    address = node.address if secured is None else secured.address
    return await _connect(address, what) or await _ask(node, what, config, tls)


async def _connect(address: str, what: str) -> Finding | None:
    """What prevents a plain TCP connection: grpc's own errors blur that."""
    try:
        host, port = split_address(address)
    except ValueError:
        return None  # for example a socket's path: grpc can dial it
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Finding(what, "problem", f"no answer in {_CONNECT_TIMEOUT:g} s", _DROPPED)
    except ConnectionRefusedError:
        return Finding(what, "problem", "connection refused: nothing listens there", _REFUSED)
    except socket.gaierror as exc:
        return Finding(what, "problem", f"{host} does not resolve: {exc.strerror}", _NAME_MISSING)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        return Finding(what, "problem", f"cannot be reached: {reason}", _DROPPED)
    writer.close()
    return None


async def _ask(node: Node, what: str, config: Config, tls: ClientTls | None) -> Finding:
    # This imports grpc, which --help does without.
    from pymicro.calling.connections.tls_words import told_in
    from pymicro.calling.peers.health import check_health
    from pymicro.rpc.status import DeadlineExceeded, RpcError, Unavailable, Unimplemented

    try:
        health = await check_health(node, config, tls, timeout=_HEALTH_TIMEOUT)
    except Unimplemented:
        return Finding(what, "note", "answers gRPC, and offers no health (grpc.health.v1)")
    except DeadlineExceeded:
        text = f"takes connections and answers nothing in {_HEALTH_TIMEOUT:g} s"
        return Finding(what, "problem", text, _HANGS)
    except Unavailable as exc:
        details = exc.details() or ""
        secured = tls.of(node, node.service) if tls is not None else None
        if told := told_in(details, secured, time.time()):
            return Finding(what, "problem", f"takes connections and no calls: {told.sentence}", told.advice)
        return Finding(
            what, "problem", f"takes connections and no gRPC calls: {shortened(details)}", _NO_GRPC
        )
    except RpcError as exc:
        return Finding(
            what, "problem", f"answers health with {exc.code().name}: {shortened(exc.details() or '')}"
        )
    if not health.serving:
        text = f"is {health.status}: it starts or stops, or says of itself that it is not well"
        return Finding(what, "problem", text, _NOT_SERVING)
    encrypted = ", TLS" if tls is not None and tls.of(node, node.service) is not None else ""
    return Finding(what, "ok", f"SERVING, {health.seconds * 1000:.1f} ms{encrypted}{_version(node)}")


def _version(node: Node) -> str:
    return f", version {node.version}" if node.version else ""
