"""A thin client of etcd: keys, leases and the beginning of a watch."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio

from pymicro.discovery.registries.etcd.connection import Connection
from pymicro.discovery.registries.etcd.errors import Doing, EtcdError
from pymicro.discovery.registries.etcd.members import Members, Stream
from pymicro.discovery.registries.etcd.messages import (
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    PUT,
    RANGE,
    STATUS,
    TXN,
    WATCH,
    message,
)
from pymicro.discovery.registries.etcd.users import Metadata

__all__ = ["EtcdClient", "watching"]

# Keys of a page; if a page is larger than a message may be, we ask for smaller ones.
_PAGE = 250
_FEWER = 8

# What a transaction compares (rpc.proto, Compare.CompareTarget); the result 0 is "equal".
_MOD, _VALUE, _LEASE = 2, 3, 4


def watching(prefix: str) -> Doing:
    """The watch of all keys that begin with `prefix`."""
    return Doing("watch", prefix, prefix=True, right="read")


def _end(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with `prefix` (API v3, "Key ranges")."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class EtcdClient:
    """All requests that registry `etcd` makes. Each may safely be sent twice.

    Args:
        members: The members to ask.

    Attributes:
        members: The same.
    """

    def __init__(self, members: Members) -> None:
        self.members = members

    # Keys

    async def pages(self, prefix: str, verb: str = "read") -> AsyncGenerator[Any, None]:
        """All keys that begin with `prefix`, as they were at one revision, in several responses.

        A value larger than a message may be is left out, as if it were empty.

        Raises:
            EtcdError: etcd refused, no member answered, or (kind `compacted`) etcd forgot
                the revision meanwhile.
        """
        doing = Doing(verb, prefix, prefix=True, right="read")
        start, end = prefix.encode(), _end(prefix.encode())
        revision, limit, keys_only = 0, _PAGE, False
        while True:
            request = message(
                "RangeRequest",
                key=start,
                range_end=end,
                limit=limit,
                revision=revision,
                keys_only=keys_only,
            )
            try:
                page = await self.members.call(RANGE, request, doing)
            except EtcdError as exc:
                if exc.kind != "too large" or keys_only:
                    raise
                # Somebody wrote values a hundred times the usual size, or one too large for any
                # message.
                keys_only = limit == 1
                limit = max(limit // _FEWER, 1)
                continue
            # The large ones may be over: grow again.
            keys_only, limit = False, min(limit * 2, _PAGE)
            revision = revision or page.header.revision
            yield page
            if not page.more:
                return
            start = page.kvs[-1].key + b"\0"

    async def get(self, key: str, revision: int = 0) -> Any:
        """The key with its value, or None; as it was at a revision, 0 for now."""
        request = message("RangeRequest", key=key.encode(), revision=revision)
        page = await self.members.call(RANGE, request, Doing("read", key, right="read"))
        return page.kvs[0] if page.kvs else None

    async def put(self, key: str, value: bytes, lease: int) -> int:
        """Write a key; lease 0 means no lease. Returns the revision of that."""
        request = message("PutRequest", key=key.encode(), value=value, lease=lease)
        answer = await self.members.call(PUT, request, Doing("put", key, right="write"))
        revision: int = answer.header.revision
        return revision

    async def delete(self, key: str, *, lease: int = 0, revision: int = 0, value: bytes = b"") -> None:
        """Delete a key if it is still as it was written; it is no error if it is not (there).

        Args:
            key: The key.
            lease: The lease that must hold it; 0 if it has none.
            revision: Without a lease, the revision at which it must have been written; 0 if
                that is not known.
            value: Without both, what it must say.
        """
        same: dict[str, Any]
        if lease:
            same = {"target": _LEASE, "lease": lease}
        elif revision:
            same = {"target": _MOD, "mod_revision": revision}
        else:
            same = {"target": _VALUE, "value": value}
        raw = key.encode()
        remove = message("RequestOp", request_delete_range=message("DeleteRangeRequest", key=raw))
        request = message("TxnRequest", compare=[message("Compare", key=raw, **same)], success=[remove])
        await self.members.call(TXN, request, Doing("delete", key, right="write"))

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Stream]:
        """A stream for watches of `prefix`; write a `watch_request` to it first."""
        return self.members.stream(WATCH, watching(prefix))

    @staticmethod
    def watch_request(prefix: str, revision: int) -> Any:
        """A request for everything that happens to these keys, from `revision` on."""
        key = prefix.encode()
        create = message(
            "WatchCreateRequest",
            key=key,
            range_end=_end(key),
            start_revision=revision,
            progress_notify=True,
            fragment=True,
        )
        return message("WatchRequest", create_request=create)

    @staticmethod
    def progress_request() -> Any:
        """A request that asks whether everything until now has come."""
        return message("WatchRequest", progress_request=message("WatchProgressRequest"))

    # Leases

    async def grant(self, ttl: int) -> tuple[int, int]:
        """A new lease, and the seconds that etcd really gave it."""
        doing = Doing(f"get a lease of {ttl} s")
        answer = await self.members.call(LEASE_GRANT, message("LeaseGrantRequest", TTL=ttl), doing)
        return answer.ID, answer.TTL

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease; returns whether the lease still exists."""

        async def invoke(connection: Connection, metadata: Metadata) -> bool:
            timeout = self.members.timeout
            call = connection.stream(LEASE_KEEP_ALIVE)(timeout=timeout, metadata=metadata)
            try:
                await call.write(message("LeaseKeepAliveRequest", ID=lease))
                answer: Any = await call.read()
            finally:
                call.cancel()
            # etcd reports a lost lease not as an error but as one that is good for 0 seconds.
            return bool(answer is not grpc.aio.EOF and answer.TTL > 0)

        return await self.members.ask(Doing("renew a lease"), invoke)

    async def revoke(self, lease: int) -> None:
        """End a lease; it is no error if the lease has run out."""
        request = message("LeaseRevokeRequest", ID=lease)
        try:
            await self.members.call(LEASE_REVOKE, request, Doing("end a lease"))
        except EtcdError as exc:
            if exc.kind != "lease":
                raise

    # Members

    async def status(self, endpoint: str) -> Any:
        """The status of one member.

        Raises:
            EtcdError: The member did not answer.
        """
        doing = Doing("ask for the status")
        return await self.members.ask_one(endpoint, STATUS, message("StatusRequest"), doing)
