"""Registry `etcd`: nodes in an etcd cluster, in go-micro's form.

`client` sends requests over `members`, which chooses a member, over `connection`; `users` has
the account, `messages` the messages. A service's watch is in `watch` over `table`; `publisher`
publishes our own nodes; `diagnosis` is what `pymicro doctor` says; this module is the registry
over them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.tasks import Tasks
from pymicro.base.turns import Turns
from pymicro.base.turnstile import Turnstile
from pymicro.base.watches import Watches
from pymicro.discovery.registries.etcd.client import EtcdClient
from pymicro.discovery.registries.etcd.diagnosis import diagnose
from pymicro.discovery.registries.etcd.endpoints import find_endpoints
from pymicro.discovery.registries.etcd.keys import ROOT, prefix_of
from pymicro.discovery.registries.etcd.members import Members
from pymicro.discovery.registries.etcd.publisher import KeyPublisher
from pymicro.discovery.registries.etcd.table import Unreadable, read_value
from pymicro.discovery.registries.etcd.timing import EtcdTiming
from pymicro.discovery.registries.etcd.users import Account
from pymicro.discovery.registries.etcd.watch import EtcdWatch, Told
from pymicro.nodes.address import private_host, source_host, split_address
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from pymicro.base.findings import Finding
    from pymicro.settings.config import Config

__all__ = ["EtcdRegistry", "EtcdTiming"]

log = logger("pymicro.registry.etcd")


class EtcdRegistry(Turnstile):
    """Nodes in etcd (API v3), one key each, shared with services of go-micro 1.x.

    If a process dies without taking its node back, the node is gone for all readers when its
    lease runs out: after `register_ttl` seconds at most. With 0 there is no lease, and the
    key stays.

    Args:
        config: `registry_address` lists the members (127.0.0.1:2379 if empty);
            `registry_user`, `registry_password` and `registry_tls_*` say how to ask them.
        timing: Lengths of time; tests pass their own.

    Attributes:
        watches: How its watches fare.

    Raises:
        ConfigError: These settings cannot be used.
    """

    name = "etcd"
    drain_delay = 5.0

    def __init__(self, config: Config, *, timing: EtcdTiming | None = None) -> None:
        super().__init__()
        self._config = config
        self._timing = timing or EtcdTiming()
        self._endpoints = find_endpoints(config)
        if config.registry_password and not config.registry_user:
            raise ConfigError("registry_password is set and registry_user is not: whose password is it?")
        self._stack = AsyncExitStack()
        self._open: tuple[EtcdClient, KeyPublisher, Tasks] | None = None
        self.watches = Watches()
        self._watches: set[EtcdWatch] = set()
        self._unreadable = Unreadable()
        self._told = Told()

    async def _enter(self) -> None:
        config = self._config
        if self._endpoints.tls is not None:
            self._endpoints.tls.read()  # faults of the files show now
        async with AsyncExitStack() as stack:
            account = Account(config.registry_user, config.registry_password)
            members = Members(self._endpoints, account, self._timing)
            stack.push_async_callback(members.close)
            client = EtcdClient(members)
            tasks = await stack.enter_async_context(Tasks("pymicro registry etcd"))
            publisher = KeyPublisher(client, tasks.start, config.register_ttl, config.register_interval)
            self._open = client, publisher, tasks
            self._stack = stack.pop_all()

    async def _leave(self) -> None:
        _, publisher, _ = self._opened()
        try:
            async with asyncio.timeout(self._timing.withdraw):
                await publisher.withdraw_all()
        except (RegistryError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.warning("what was registered could not all be taken back: %s", why)
        finally:
            self._open = None
            for watch in list(self._watches):
                watch.latest.close(RegistryError(f"{self.describe()} is closed"))
            await self._stack.aclose()

    def __repr__(self) -> str:
        counts = f"watches={len(self._watches)} unreadable={len(self._unreadable)}"
        return f"<EtcdRegistry {self.describe()!r} {counts}>"

    def describe(self) -> str:
        """`registry etcd (10.0.0.1:2379, 10.0.0.2:2379)`."""
        return f"registry etcd ({self._endpoints.describe()})"

    def advertised_host(self) -> str:
        """127.0.0.1 if all of etcd is on this machine, else the first private address.

        A machine without one advertises the address from which it reaches etcd.

        Raises:
            ConfigError: The machine has only loopback addresses.
        """
        if self._endpoints.loopback:
            return "127.0.0.1"
        host = private_host() or source_host(split_address(self._endpoints.addresses[0])[0])
        if host is None:
            raise ConfigError(
                f"{self.describe()} is not on this machine, and this machine has no address that others "
                "could reach: give --server-advertise"
            )
        return host

    def _opened(self) -> tuple[EtcdClient, KeyPublisher, Tasks]:
        if self._open is None:
            raise RuntimeError(f"{self.describe()} is used outside its `async with`")
        return self._open

    async def register(self, node: Node) -> None:
        """Make `node` known under a lease, or renew the lease and repair what somebody changed.

        Raises:
            RegistryError: etcd refused, or is away.
            ConfigError: etcd's keys cannot carry the name, or nobody else can reach the
                address.
        """
        _, publisher, _ = self._opened()
        await publisher.publish(node)

    async def deregister(self, node: Node) -> None:
        """Delete the key of `node` and end its lease, if it was registered through this instance.

        Raises:
            RegistryError: etcd refused, or is away. We try once more when this registry is
                left; if that fails too, the lease runs out.
        """
        _, publisher, _ = self._opened()
        await publisher.withdraw(node)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, now and after each change; confirmed about every 10 s.

        While etcd is away it raises once. The next watch waits until etcd is back (for 15 s,
        then it raises again).

        Raises:
            RegistryError: No service can have this name, or etcd refused or is away.
        """
        client, _, tasks = self._opened()
        try:
            prefix = prefix_of(service)
        except ValueError as exc:
            raise RegistryError(f"registry etcd: {exc}") from None
        record = self.watches.begin(f"keys under {prefix}")
        watch = EtcdWatch(client, service, prefix, self._unreadable, self._told, record)
        self._watches.add(watch)
        # In an empty context: a watch that a handler's call starts must not inherit the
        # handler's deadline.
        task = contextvars.Context().run(tasks.start, watch.run(), f"watch of {service}")
        try:
            async for nodes in watch.latest.follow():
                yield nodes
        finally:
            self._watches.discard(watch)
            task.cancel()
            record.end()
            await asyncio.wait([task])

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted.

        The names come from the records, because keys have - for /.

        Raises:
            RegistryError: etcd refused, or is away.
        """
        client, _, _ = self._opened()
        names: set[str] = set()
        turns = Turns()
        async with aclosing(client.pages(ROOT, "list")) as pages:
            async for page in pages:
                for kv in page.kvs:
                    reading = read_value(kv.value)
                    if reading.nodes:
                        names.add(reading.service)
                    await turns.give()
        return sorted(names)

    async def diagnose(self, service: str) -> AsyncGenerator[Finding, None]:
        """Why `service` is found or not: each member, the user, and the values under the keys."""
        client, _, _ = self._opened()
        async with aclosing(diagnose(client, service)) as findings:
            async for finding in findings:
                yield finding
