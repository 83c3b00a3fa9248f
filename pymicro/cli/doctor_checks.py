"""What `pymicro doctor` checks, from the settings to the nodes; each check in bounded time."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Protocol, cast

from pymicro.base.errors import ConfigError, PymicroError, RegistryError
from pymicro.base.findings import Finding
from pymicro.base.printable import listed
from pymicro.base.suggest import did_you_mean
from pymicro.cli.clients import late_nodes
from pymicro.cli.doctor_admin import check_admin_ports
from pymicro.cli.doctor_nodes import check_nodes, resolve
from pymicro.discovery.registry import Diagnosable
from pymicro.identity.checking import moment
from pymicro.nodes.wellknown import other_protocol, others_text
from pymicro.settings.config import in_pod, unknown_environment, without_effect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pymicro.base.findings import Level
    from pymicro.client import Client
    from pymicro.identity.identity import Identity
    from pymicro.nodes.node import Node
    from pymicro.settings.config import Config

__all__ = ["check", "check_identity", "check_settings"]

# Seconds for each check of a registry; longer than the timeout of any one request.
_STEP_TIMEOUT = 15.0
# A registry that can be asked answers at once.
_NODES_TIMEOUT = 5.0
# If a cause has been named, such as a missing right, most likely no answer comes.
_EXPLAINED_TIMEOUT = 1.5

# Seconds. Certificates of workloads live for a day or more, and are renewed when a third is left.
_SOON = 3600.0

# The most ids, and addresses of one, that are named.
_NAMED = 5

_OTHERS = "nodes -o wide shows which; a go-micro service speaks gRPC with MICRO_SERVER=grpc"
_STATIC_VARIABLES = ("STATIC_SELECTOR_DOMAIN_NAME", "STATIC_SELECTOR_PORT_NUMBER")


def check_settings(config: Config, environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Settings that look as if the user meant something else."""
    environ = os.environ if environ is None else environ
    names = ("registry", "selector", "balancer")
    chosen = ", ".join(f"{name} {getattr(config, name)} ({config.source(name)})" for name in names)
    found = [Finding("settings", "ok", chosen)]
    if in_pod(environ) and config.source("registry") == "default" and config.selector == "registry":
        found.append(
            Finding(
                "settings",
                "problem",
                f"this is a pod of Kubernetes, and the registry is the default, {config.registry}, "
                "which knows this container only",
                "set MICRO_REGISTRY=kubernetes in the pod template",
            )
        )
    found += [Finding("settings", "note", remark) for remark in config.remarks]
    found += [Finding("settings", "note", line) for line in unknown_environment(environ)]
    if inert := without_effect(config, environ):
        found.append(
            Finding("settings", "note", f"go-micro's, which change nothing here: {', '.join(inert)}")
        )
    for name in _STATIC_VARIABLES:
        if environ.get(name) and config.selector != "static":
            text = f"{name} is set, and only the selector static reads it; this is {config.selector}"
            found.append(Finding("settings", "note", text))
    return found


def check_identity(identity: Identity, now: float) -> list[Finding]:
    """The own certificate, which has passed the checks that every process makes.

    Args:
        identity: The certificate.
        now: Seconds since 1970.
    """
    what = "certificates"
    if identity.not_after is None:
        text = "authorities only: calls show no certificate, and a service here serves plain text"
        return [Finding(what, "ok", text)]
    left = max(0, round(identity.not_after - now))
    found = [Finding(what, "ok", f"{identity.title}, valid until {moment(identity.not_after)}")]
    if left < _SOON:
        text = "it expires soon, and its files have no newer one"
        found.append(Finding(what, "note", text, "see to what renews it; the files are read again"))
    if not identity.names and not identity.addresses:
        text = "it has no DNS name: clients in Python cannot check a server that shows it"
        fix = "have the service's name in it as well (tls_server_name says which name clients expect)"
        found.append(Finding(what, "note", text, fix))
    return found


class _Enduring(Protocol):
    """A registry whose watches something on the way may cut."""

    def endure(self, service: str, seconds: float) -> AsyncIterator[Finding]:
        """Hold its watches for so long, and say whether they stood."""
        ...


async def check(client: Client, service: str, *, watch: float = 0.0) -> AsyncIterator[Finding]:
    """Run all checks, each after those that it depends on.

    Args:
        client: Not entered yet.
        service: The service to look for; empty for checks that concern all services.
        watch: Seconds to hold watches open, to see whether something cuts them; 0 for none.
    """
    for finding in check_settings(client.config):
        yield finding
    refused = False
    async with AsyncExitStack() as stack:
        if client.identity is not None:
            try:
                keeper = await stack.enter_async_context(client.identity)
            except PymicroError as exc:
                yield Finding("certificates", "problem", str(exc))
                return
            for finding in check_identity(keeper.current, time.time()):
                yield finding
        try:
            async with asyncio.timeout(_STEP_TIMEOUT):
                await stack.enter_async_context(client)
        except (PymicroError, TimeoutError) as exc:
            yield Finding(
                "registry", "problem", str(exc) or _no_answer(client.registry.describe(), _STEP_TIMEOUT)
            )
            return
        if client.selector.uses_registry:
            async for finding in _check_registry(client, service):
                refused = refused or finding.level == "problem"
                yield finding
            if watch and not refused:
                async for finding in _endure(client, service, watch):
                    yield finding
            if not service and not refused:
                yield await _list_services(client)
        elif not service:
            text = f"the selector {client.selector.name} asks none: name a service to look for"
            yield Finding("registry", "note", text)
        if service:
            async for finding in _check_service(client, service, refused):
                yield finding


async def _check_registry(client: Client, service: str) -> AsyncIterator[Finding]:
    registry = client.registry
    if not isinstance(registry, Diagnosable):
        yield Finding("registry", "ok", registry.describe())
        return
    findings = cast("AsyncGenerator[Finding, None]", registry.diagnose(service))
    async with aclosing(findings):
        while True:
            try:
                async with asyncio.timeout(_STEP_TIMEOUT):
                    finding = await anext(findings)
            except StopAsyncIteration:
                return
            except TimeoutError:
                yield Finding("registry", "problem", _no_answer(registry.describe(), _STEP_TIMEOUT))
                return
            yield finding


async def _endure(client: Client, service: str, seconds: float) -> AsyncIterator[Finding]:
    registry = client.registry
    if not hasattr(registry, "endure"):
        yield Finding("watch", "ok", f"nothing on the way can cut those of {registry.describe()} unnoticed")
        return
    findings = cast("_Enduring", registry).endure(service, seconds)
    try:
        async with asyncio.timeout(seconds + _STEP_TIMEOUT):
            async for finding in findings:
                yield finding
    except TimeoutError:
        yield Finding("watch", "problem", _no_answer(registry.describe(), seconds + _STEP_TIMEOUT))


async def _list_services(client: Client) -> Finding:
    try:
        async with asyncio.timeout(_STEP_TIMEOUT):
            names = await client.services()
    except (RegistryError, TimeoutError) as exc:
        text = str(exc) or _no_answer(client.registry.describe(), _STEP_TIMEOUT)
        return Finding("services", "problem", f"could not be listed: {text}")
    return Finding("services", "ok", listed(names, 50) or "none has a node now")


async def _check_service(client: Client, service: str, explained: bool) -> AsyncIterator[Finding]:
    """The nodes a call would choose from, and whether they can be reached.

    Args:
        client: Open.
        service: The service whose nodes to check.
        explained: Whether a named problem already explains why there may be no nodes.
    """
    try:
        async with asyncio.timeout(_EXPLAINED_TIMEOUT if explained else _NODES_TIMEOUT):
            nodes = await client.nodes(service)
        if not nodes and not explained:
            nodes = await late_nodes(client, service)
    except TimeoutError:
        if not explained:
            yield Finding("nodes", "problem", _no_answer(client.selector.describe(service), _NODES_TIMEOUT))
        return
    except (RegistryError, ConfigError) as exc:
        yield Finding("nodes", "problem", str(exc))
        return
    if not nodes:
        if not explained:
            yield await _nobody(client, service)
        return
    if not client.selector.uses_registry:
        count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
        yield Finding("selector", "ok", f"{client.selector.describe(service)}: {count}")
    for finding in _same_ids(nodes):
        yield finding
    dialled: list[Node] = []
    others = [protocol for node in nodes if (protocol := other_protocol(node.metadata))]
    if others and not explained:
        level: Level = "note" if len(others) < len(nodes) else "problem"
        yield Finding("nodes", level, f"not called: {others_text(others)}", _OTHERS)
    for node in nodes:
        if other_protocol(node.metadata):
            continue
        if node.kind == "address":
            dialled.append(node)
            continue
        findings, addresses = await resolve(node)
        for finding in findings:
            yield finding
        dialled += addresses
    async for finding in check_nodes(dialled, client.config, client.core.tls):
        yield finding
    async for finding in check_admin_ports(dialled):
        yield finding


def _same_ids(nodes: Sequence[Node]) -> list[Finding]:
    """Nodes that others may take for one."""
    addresses: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        addresses[node.id].append(node.address)
    return [
        Finding(
            "ids",
            "note",
            f"{len(places)} nodes have the id {node_id}: {listed(places, _NAMED)}; calls reach each, and "
            "clients of go-micro's take them for one",
            "give each a server_id of its own, or none",
        )
        for node_id, places in addresses.items()
        if len(places) > 1
    ][:_NAMED]


async def _nobody(client: Client, service: str) -> Finding:
    text = f"no node of {service}: {client.selector.describe(service)}"
    if not client.selector.uses_registry:
        return Finding("nodes", "problem", text)
    try:
        async with asyncio.timeout(_NODES_TIMEOUT):
            text += did_you_mean(service, await client.services())
    except (RegistryError, TimeoutError):
        pass  # the registry cannot list services
    return Finding("nodes", "problem", text, "is it running, with the same registry and registry_address?")


def _no_answer(what: str, seconds: float) -> str:
    return f"{what}: no answer in {seconds:g} s"
