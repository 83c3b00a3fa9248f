"""A thin client of etcd: calls that find another member where one fails, users and their tokens.

Members are chosen here and not by grpc-core's round robin over several addresses: that
knows only connections, and would go on asking a member that is connected and frozen, or
cut off from the others; and it takes one name only to check certificates against.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from pymicro.errors import ConfigError
from pymicro.registry.etcd.connection import Connection, connect
from pymicro.registry.etcd.endpoints import Endpoints
from pymicro.registry.etcd.errors import (
    Doing,
    EtcdError,
    answers_elsewhere,
    is_stale_token,
    reason,
    refused,
)
from pymicro.registry.etcd.messages import (
    AUTHENTICATE,
    DELETE_RANGE,
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    PUT,
    RANGE,
    STATUS,
    Method,
    message,
)
from pymicro.registry.etcd.timing import Timing

__all__ = ["EtcdClient", "Metadata", "Stream", "prefix_end"]

log = logging.getLogger("pymicro.registry.etcd")

T = TypeVar("T")

Metadata = list[tuple[str, str]]

# Keys of a page; what is larger than a message may be is asked for in smaller ones.
_PAGE = 250

# A member that is cut off from its cluster refuses at once instead of waiting (etcd's
# own client: WithRequireLeader), and ends its watches.
_LEADER = ("hasleader", "true")


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with `prefix` (API v3, "Key ranges")."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Stream:
    """A call in which both sides stream, on one connection."""

    def __init__(self, client: EtcdClient, connection: Connection, call: Any, doing: Doing) -> None:
        self.endpoint = connection.endpoint
        self._client = client
        self._connection = connection
        self._call = call
        self._doing = doing

    async def write(self, request: Any) -> None:
        """Send a request; that it cannot be sent is told by `read`."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def read(self) -> Any:
        """The next response.

        Raises:
            EtcdError: There is none; the connection is not used any more.
        """
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as exc:
            if not answers_elsewhere(exc):
                raise self._client.explain(self._doing, self._connection, exc) from None
            raise self.fail(reason(exc, 0)) from None
        if response is grpc.aio.EOF:
            raise self.fail("etcd ended it")
        self._connection.worked = True
        return response

    def fail(self, why: str) -> EtcdError:
        """The error that this stream is of no use; the next call goes elsewhere."""
        self._client.leave(self._connection)
        return EtcdError(f"cannot {self._doing}: {self.endpoint}: {why}", kind="away")


class EtcdClient:
    """Asks the members of one etcd, one of them at a time, as one user.

    A member that does not answer is left for the next one. The first is chosen by
    chance, so that a thousand clients spread over the members.

    Args:
        endpoints: The members.
        user: Whose token to send; empty for none.
        password: The user's.
        timing: How long what may take.

    Attributes:
        without_users: Whether nobody is to authenticate: no user is given, or etcd has
            none switched on.
    """

    def __init__(self, endpoints: Endpoints, user: str, password: str, timing: Timing) -> None:
        self.endpoints = endpoints
        self.timing = timing
        self.user = user
        self._password = password
        self._order = list(endpoints.addresses)
        random.shuffle(self._order)
        self._connection: Connection | None = None
        self._connections: set[Connection] = set()
        self._token = ""
        self._authenticating = asyncio.Lock()
        self.without_users = not user

    @property
    def timeout(self) -> float:
        """Of one attempt, in seconds."""
        return self.timing.attempt if len(self._order) > 1 else self.timing.call

    async def close(self) -> None:
        """Close every connection; nobody may use the client any more."""
        self._connection = None
        for connection in list(self._connections):
            await connection.close()
        self._connections.clear()

    # Connections

    def leave(self, connection: Connection) -> None:
        """Use the next member from now on. Others who use this connection find out themselves."""
        connection.left = True
        if self._connection is connection:
            self._connection = None
            self._order.append(self._order.pop(0))

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Connection]:
        """The connection in use, or a new one to the member whose turn it is."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect(self._order[0])
            self._connections.add(connection)
        connection.users += 1
        try:
            yield connection
        finally:
            connection.users -= 1
            if connection.left and not connection.users and connection in self._connections:
                self._connections.discard(connection)
                await connection.close()

    def _connect(self, endpoint: str) -> Connection:
        try:
            return connect(endpoint, self.endpoints.tls, self.timing)
        except ConfigError as exc:
            # They could be read before: perhaps somebody is replacing them just now.
            raise EtcdError(str(exc), kind="files") from exc

    # Calls

    async def call(self, method: Method, request: Any, doing: Doing) -> Any:
        """The response to one request, of whichever member answers.

        Raises:
            EtcdError: Refused, or no member answered.
        """

        async def invoke(connection: Connection, metadata: Metadata) -> Any:
            return await connection.unary(method)(request, timeout=self.timeout, metadata=metadata)

        return await self._ask(doing, invoke)

    async def _ask(self, doing: Doing, invoke: Callable[[Connection, Metadata], Awaitable[T]]) -> T:
        failed: dict[str, str] = {}
        renewed = False
        while True:
            async with self._lend() as connection:
                worked, token = connection.worked, self._token
                try:
                    answer = await invoke(connection, await self.metadata(connection))
                except grpc.aio.AioRpcError as exc:
                    if is_stale_token(exc) and self.user and not renewed:
                        renewed = True
                        self.forget(token)
                        continue
                    if not answers_elsewhere(exc):
                        connection.worked = True
                        raise self.explain(doing, connection, exc) from None
                    self.leave(connection)
                    if not worked:
                        failed[connection.endpoint] = reason(exc, self.timeout)
                    # One that worked until now says nothing of the endpoint: that may be
                    # up again, or it was the connection only.
                else:
                    connection.worked = True
                    return answer
            if len(failed) == len(self.endpoints.addresses):
                raise self._away(doing, failed)

    def _away(self, doing: Doing, failed: dict[str, str]) -> EtcdError:
        listed = "; ".join(f"{endpoint}: {failed[endpoint]}" for endpoint in self.endpoints.addresses)
        return EtcdError(f"cannot {doing}: {listed}", kind="away")

    @asynccontextmanager
    async def stream(self, method: Method, doing: Doing) -> AsyncIterator[Stream]:
        """A call in which both sides stream; it ends with the block.

        Raises:
            EtcdError: There is no connection, or no token.
        """
        async with self._lend() as connection:
            try:
                metadata = await self.metadata(connection)
            except grpc.aio.AioRpcError as exc:
                self.leave(connection)
                why = f"{connection.endpoint}: {reason(exc, self.timeout)}"
                raise EtcdError(f"cannot {doing}: {why}", kind="away") from None
            call = connection.stream(method)(metadata=metadata)
            try:
                yield Stream(self, connection, call, doing)
            finally:
                call.cancel()

    def explain(self, doing: Doing, connection: Connection, error: grpc.aio.AioRpcError) -> EtcdError:
        """The error for what a member refused."""
        return refused(doing, connection.endpoint, self.user, error)

    # Users

    def forget(self, token: str | None = None) -> None:
        """Authenticate before the next call, if this is still the token in use (or whatever it is)."""
        if token is None or token == self._token:
            self._token = ""
            self.without_users = not self.user

    async def metadata(self, connection: Connection) -> Metadata:
        """What goes with every request: that a leader is needed, and who asks.

        Raises:
            AioRpcError: The member did not answer.
            EtcdError: It does not know user or password.
        """
        if not self.without_users and not self._token:
            async with self._authenticating:
                if not self.without_users and not self._token:
                    await self._authenticate(connection)
        return [_LEADER, ("token", self._token)] if self._token else [_LEADER]

    async def _authenticate(self, connection: Connection) -> None:
        request = message("AuthenticateRequest", name=self.user, password=self._password)
        try:
            answer = await connection.unary(AUTHENTICATE)(request, timeout=self.timeout, metadata=[_LEADER])
        except grpc.aio.AioRpcError as exc:
            details = exc.details() or ""
            if "authentication is not enabled" in details:
                log.info(
                    "registry etcd: %s has no users switched on: going on without registry_user %r",
                    connection.endpoint,
                    self.user,
                )
                self.without_users = True
                return
            if answers_elsewhere(exc):
                raise
            if "authentication failed" in details or exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise EtcdError(
                    f"{connection.endpoint} knows no user {self.user!r} with this password: "
                    "see registry_user and registry_password",
                    kind="user",
                ) from None
            raise self.explain(Doing(f"authenticate as {self.user!r}"), connection, exc) from None
        self._token = answer.token

    # Keys

    async def pages(self, prefix: str, verb: str = "read") -> AsyncGenerator[Any, None]:
        """All keys that begin with `prefix`, as they were at one revision, in several responses.

        Raises:
            EtcdError: Refused, no member answered, or (kind `compacted`) the revision
                was forgotten meanwhile.
        """
        doing = Doing(verb, prefix, prefix=True, right="read")
        start, end = prefix.encode(), prefix_end(prefix.encode())
        revision, limit = 0, _PAGE
        while True:
            request = message("RangeRequest", key=start, range_end=end, limit=limit, revision=revision)
            try:
                page = await self.call(RANGE, request, doing)
            except EtcdError as exc:
                if exc.kind != "too large" or limit == 1:
                    raise
                # Somebody wrote values a hundred times the usual size.
                limit = max(limit // 8, 1)
                continue
            revision = revision or page.header.revision
            yield page
            if not page.more:
                return
            start = page.kvs[-1].key + b"\0"

    async def get(self, key: str) -> Any:
        """The key with its value, or None."""
        page = await self.call(
            RANGE, message("RangeRequest", key=key.encode()), Doing("read", key, right="read")
        )
        return page.kvs[0] if page.kvs else None

    async def put(self, key: str, value: bytes, lease: int) -> None:
        """Write a key; 0 for no lease."""
        request = message("PutRequest", key=key.encode(), value=value, lease=lease)
        await self.call(PUT, request, Doing("put", key, right="write"))

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error."""
        request = message("DeleteRangeRequest", key=key.encode())
        await self.call(DELETE_RANGE, request, Doing("delete", key, right="write"))

    async def status(self, endpoint: str) -> Any:
        """What one member says of itself, over a connection of its own and as no user.

        Raises:
            EtcdError: It did not answer.
        """
        connection = self._connect(endpoint)
        try:
            return await connection.unary(STATUS)(message("StatusRequest"), timeout=self.timeout)
        except grpc.aio.AioRpcError as exc:
            if not answers_elsewhere(exc):
                raise self.explain(Doing("ask for the status"), connection, exc) from None
            raise EtcdError(f"{endpoint}: {reason(exc, self.timeout)}", kind="away") from None
        finally:
            await connection.close()

    # Leases

    async def grant(self, ttl: int) -> tuple[int, int]:
        """A new lease, and how many seconds it was really given."""
        answer = await self.call(
            LEASE_GRANT, message("LeaseGrantRequest", TTL=ttl), Doing(f"get a lease of {ttl} s")
        )
        return answer.ID, answer.TTL

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease; whether there is such a lease still."""

        async def invoke(connection: Connection, metadata: Metadata) -> bool:
            call = connection.stream(LEASE_KEEP_ALIVE)(timeout=self.timeout, metadata=metadata)
            try:
                await call.write(message("LeaseKeepAliveRequest", ID=lease))
                answer: Any = await call.read()
            finally:
                call.cancel()
            # A lost lease is no error in etcd but one that is good for 0 seconds.
            return bool(answer is not grpc.aio.EOF and answer.TTL > 0)

        return await self._ask(Doing("renew a lease"), invoke)

    async def revoke(self, lease: int) -> None:
        """End a lease; one that has run out is no error."""
        try:
            await self.call(LEASE_REVOKE, message("LeaseRevokeRequest", ID=lease), Doing("end a lease"))
        except EtcdError as exc:
            if exc.kind != "lease":
                raise
