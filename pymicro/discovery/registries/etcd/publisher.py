"""Publishes our own nodes: one key each, held by a lease, and repaired."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pymicro.base.endless import endless
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.discovery.registries.etcd.client import EtcdClient
from pymicro.discovery.registries.etcd.endpoints import is_loopback
from pymicro.discovery.registries.etcd.errors import EtcdError
from pymicro.discovery.registries.etcd.keys import key_of
from pymicro.nodes.address import split_address
from pymicro.nodes.node import Node
from pymicro.nodes.record import dump_record, load_record

__all__ = ["KeyPublisher"]

log = logger("pymicro.registry.etcd")

_UNREACHABLE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104, RUF100


@dataclass(slots=True)
class _OwnKey:
    """One node's key.

    Attributes:
        key: The key.
        lease: The lease that holds it; 0 if there is none (yet).
        granted: Seconds of that lease.
        wanted: The text that should be there.
        written: Whether etcd may have the key.
        text: The text written last; None if that is not known.
        revision: When that was; 0 if that is not known.
        writing: Held while the key is written or deleted.
        keeper: Renews the lease between two registrations, if that is needed.
    """

    key: str
    lease: int = 0
    granted: int = 0
    wanted: bytes = b""
    written: bool = False
    text: bytes | None = None
    revision: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    keeper: asyncio.Task[Any] | None = None


class KeyPublisher:
    """Writes nodes of this process, keeps them, and takes them back.

    Each registration renews the lease, and repairs: a lease that was lost, a key that
    somebody deleted, a value that somebody overwrote. If the lease runs out before two
    intervals have passed, or there is no interval, registrations come too late; then the
    publisher does the same itself, every third of the lease.

    Args:
        client: Sends the requests.
        start: Starts a background task.
        ttl: Seconds of a lease; with 0 there is none: keys stay until they are deleted.
        interval: Seconds between two registrations; 0 if only one ever comes.
    """

    def __init__(
        self,
        client: EtcdClient,
        start: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[Any]],
        ttl: int,
        interval: int,
    ) -> None:
        self._client = client
        self._start = start
        self._ttl = ttl
        self._interval = interval
        self._published: dict[tuple[str, str], _OwnKey] = {}
        self._told = False

    async def publish(self, node: Node) -> None:
        """Make `node` known, or make sure that it still is.

        Raises:
            EtcdError: etcd refused, or is away.
            ConfigError: The name or the address can never be used.
        """
        key, text = self._check(node)
        published = self._published.setdefault((node.service, node.id), _OwnKey(key))
        async with published.writing:
            if self._published.get((node.service, node.id)) is not published:
                return  # it was taken back while this waited
            published.wanted = text
            await self._write(node, published)
            self._keep(node, published)

    def _check(self, node: Node) -> tuple[str, bytes]:
        try:
            key, text = key_of(node.service, node.id), dump_record([node])
            for problem in load_record(text).problems:  # we write nothing that readers would skip
                raise ValueError(problem)
            host, _ = split_address(node.address)
        except ValueError as exc:
            raise ConfigError(f"registry etcd: cannot register {excerpt(node.service)}: {exc}") from None
        if host in _UNREACHABLE or (is_loopback(host) and not self._client.members.endpoints.loopback):
            raise ConfigError(
                f"registry etcd: {node.service} advertises {node.address}, which nobody else can reach: "
                "listen on 0.0.0.0 (--server-address 0.0.0.0:8080), or give --server-advertise "
                "(a loopback address does only where all of etcd is on this machine)"
            )
        return key, text.encode()

    async def _write(self, node: Node, published: _OwnKey) -> None:
        """Bring etcd in line with `wanted`."""
        client, text = self._client, published.wanted
        if published.lease and not await client.keep_alive(published.lease):
            log.warning("registry etcd: the lease of %s is lost; registering it again", node.id)
            published.lease, published.text = 0, None
        if self._ttl and not published.lease:
            published.lease, published.granted = await client.grant(self._ttl)
            published.text = None
        if published.text == text and await self._stands(node, published):
            await client.members.learn()
            return
        # Until the answer comes, nobody knows what is written.
        before = published.written
        published.text, published.revision, published.written = None, 0, True
        try:
            published.revision = await client.put(published.key, text, published.lease)
        except EtcdError as exc:
            if exc.kind != "away":
                published.written = before  # etcd refused it
            if exc.kind == "lease":
                published.lease = 0  # it was lost after its renewal: the next try gets another one
            raise
        published.text = text

    async def _stands(self, node: Node, published: _OwnKey) -> bool:
        """Whether the key still has the text that we wrote."""
        try:
            found = await self._client.get(published.key)
        except EtcdError as exc:
            if exc.kind == "denied":
                return False  # we may write the key but not read it: write again
            raise
        if found is None:
            log.warning("registry etcd: somebody deleted %s; registering %s again", published.key, node.id)
            return False
        if found.value != published.text or found.lease != published.lease:
            log.warning(
                "registry etcd: somebody overwrote %s; registering %s again "
                "(do two processes have the same server_id?)",
                published.key,
                node.id,
            )
            return False
        return True

    # Between registrations

    def _keep(self, node: Node, published: _OwnKey) -> None:
        """Start the keeper, if the lease needs one."""
        if not published.lease or (self._interval and self._interval * 2 <= published.granted):
            return
        if self._interval >= published.granted and not self._told:
            self._told = True
            log.warning(
                "registry etcd: register_ttl (%d s) is not greater than register_interval (%d s), so the "
                "registration would run out between two renewals: renewing it more often; "
                "give a register_ttl of at least twice the interval",
                self._ttl,
                self._interval,
            )
        if published.keeper is None or published.keeper.done():
            # In an empty context: the caller that registers may have a deadline that is not ours.
            published.keeper = contextvars.Context().run(
                self._start, self._renew(node, published), f"lease of {node.id}"
            )

    def _renew(self, node: Node, published: _OwnKey) -> Coroutine[Any, Any, None]:
        async def renew() -> float:
            async with published.writing:
                try:
                    await self._write(node, published)
                except RegistryError as exc:
                    log.debug("the lease of %s could not be renewed: %s", node.id, exc)
            return published.granted / 3

        pause = published.granted / 3
        return endless(renew, what=f"the renewal of {node.id}", log=log, pause=pause, delay=pause)

    # Taking back

    async def withdraw(self, node: Node) -> None:
        """Delete what `publish` wrote for `node`, and end its lease.

        What another process has written under the same key since then is its own, and stays.

        Raises:
            EtcdError: etcd refused, or is away; the lease ends what is left.
        """
        identity = node.service, node.id
        published = self._published.get(identity)
        if published is None:
            return
        # Before taking the lock: the keeper may hold it for as long as etcd is silent.
        await _end_keeper(published)
        async with published.writing:
            if self._published.get(identity) is not published:
                return
            await _end_keeper(published)  # one that a registration began while this waited
            try:
                # The key goes first: go-micro's watchers look at what was deleted.
                if published.written:
                    await self._client.delete(
                        published.key,
                        lease=published.lease,
                        revision=published.revision,
                        value=published.wanted,
                    )
            except EtcdError as exc:
                if exc.kind == "denied" and published.lease:
                    # We may write the key but not look at it. The end of the lease deletes it.
                    await self._client.revoke(published.lease)
                    del self._published[identity]
                    return
                stays = f"for {published.granted} s at most" if published.lease else "until it is deleted"
                raise EtcdError(
                    f"{str(exc).removeprefix('registry etcd: ')}; the key stays {stays}", kind=exc.kind
                ) from exc
            del self._published[identity]
            if published.lease:
                try:
                    await self._client.revoke(published.lease)
                except EtcdError as exc:
                    log.debug("the lease of %s runs out by itself: %s", node.id, exc)

    async def withdraw_all(self) -> None:
        """Take back everything that is left.

        Raises:
            EtcdError: The error of the first node that could not be taken back.
        """
        first: EtcdError | None = None
        for service, node_id in list(self._published):
            try:
                await self.withdraw(Node(node_id, "", service))
            except EtcdError as exc:
                first = first or exc
        if first is not None:
            raise first


async def _end_keeper(published: _OwnKey) -> None:
    keeper, published.keeper = published.keeper, None
    if keeper is not None:
        keeper.cancel()
        await asyncio.wait([keeper])
