"""The members of one etcd: if one fails, calls go to another.

We choose the member ourselves, instead of grpc-core's round robin over several addresses.
grpc-core knows only connections: it would go on asking a member that is connected but frozen or
cut off from the others. And it checks all certificates against one name only.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from pymicro.base.endless import being_cancelled
from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.discovery.registries.etcd.connection import Connection, connect
from pymicro.discovery.registries.etcd.endpoints import Endpoints, learned
from pymicro.discovery.registries.etcd.errors import (
    Doing,
    EtcdError,
    answers_elsewhere,
    is_stale_token,
    reason,
    refused,
)
from pymicro.discovery.registries.etcd.messages import MEMBER_LIST, EtcdMethod, message
from pymicro.discovery.registries.etcd.timing import EtcdTiming
from pymicro.discovery.registries.etcd.users import Account, Metadata

__all__ = ["Members", "Stream"]

log = logger("pymicro.registry.etcd")

T = TypeVar("T")

_HINT = "is registry_address right, and does etcd run there? `pymicro doctor` says more"


class Stream:
    """A call in which both sides stream, on one connection.

    Attributes:
        endpoint: The member's address.
        token: The token that began the call.
    """

    def __init__(self, members: Members, connection: Connection, call: Any, doing: Doing) -> None:
        self.endpoint = connection.endpoint
        self.token = members.account.token
        self._members = members
        self._connection = connection
        self._call = call
        self._doing = doing

    async def write(self, request: Any) -> None:
        """Send a request; if it cannot be sent, `read` says so."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def read(self) -> Any:
        """The next response.

        Raises:
            EtcdError: There is none.
        """
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as exc:
            if not answers_elsewhere(exc):
                raise refused(self._doing, self.endpoint, self._members.account.user, exc) from None
            raise self.fail(reason(exc, 0)) from None
        if response is grpc.aio.EOF:
            raise self.fail("etcd ended it")
        self._connection.worked = True
        return response

    def fail(self, why: str) -> EtcdError:
        """The error for a stream that is of no use; later calls go to another member."""
        self._members.leave(self._connection)
        return EtcdError(f"cannot {self._doing}: {self.endpoint}: {why}", kind="away")


class Members:
    """Asks the members, one of them at a time, over one shared connection.

    If a member does not answer, the next one is asked. The first is chosen by chance, so
    that a thousand clients spread over the members. After those in the settings come those that
    the cluster itself has named: over the years each of its members may be replaced.

    Args:
        endpoints: The members' addresses.
        account: The account to ask with.
        timing: All lengths of time.

    Attributes:
        endpoints: As given.
        account: As given.
        timing: As given.
    """

    def __init__(self, endpoints: Endpoints, account: Account, timing: EtcdTiming) -> None:
        self.endpoints = endpoints
        self.account = account
        self.timing = timing
        self._order = list(endpoints.addresses)
        random.shuffle(self._order)
        self._learned: tuple[str, ...] = ()
        # The first time soon: what a young process needs to know is in its settings.
        self._learn_at = time.monotonic() + timing.learn / 30
        # The connection in use, and all connections that still have users.
        self._connection: Connection | None = None
        self._connections: set[Connection] = set()
        self._closed = False

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""
        return self.timing.attempt if len(self.endpoints.addresses) > 1 else self.timing.call

    async def close(self) -> None:
        """Close every connection; after that nobody may ask any more."""
        self._closed = True
        self._connection = None
        for connection in list(self._connections):
            await connection.close()
        self._connections.clear()

    def leave(self, connection: Connection) -> None:
        """Use the next member from now on. Other users of this connection find out themselves."""
        connection.left = True
        if self._connection is connection:
            self._connection = None
            self._order.append(self._order.pop(0))

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Connection]:
        """The connection in use, or a new one to the next member."""
        if self._closed:
            raise EtcdError("it is closed", kind="away")
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
            # The files could be read before: perhaps somebody is replacing them just now.
            raise EtcdError(str(exc), kind="files") from exc

    async def learn(self) -> None:
        """Ask who the members are, unless that was asked a while ago; what fails is asked again then."""
        now = time.monotonic()
        if now < self._learn_at:
            return
        self._learn_at = now + self.timing.learn
        try:
            answer = await self.call(MEMBER_LIST, message("MemberListRequest"), Doing("ask for the members"))
        except EtcdError as exc:
            log.debug("the members cannot be asked for: %s", exc)
            return
        urls = (url for member in answer.members if not member.isLearner for url in member.clientURLs)
        found = tuple(one for one in learned(urls, self.endpoints) if one not in self.endpoints.addresses)
        if found != self._learned:
            log.info(
                "etcd has members that are not in registry_address: %s", ", ".join(found) or "none any more"
            )
            # The one that is asked just now stays first: `leave` moves it.
            asked = self._connection.endpoint if self._connection is not None else ""
            gone = {one for one in self._learned if one not in found and one != asked}
            new = [one for one in found if one not in self._order]
            self._learned = found
            self._order = [one for one in self._order if one not in gone] + new

    async def call(self, method: EtcdMethod, request: Any, doing: Doing) -> Any:
        """The response to one request, from whichever member answers.

        Raises:
            EtcdError: etcd refused, or no member answered.
        """

        async def invoke(connection: Connection, metadata: Metadata) -> Any:
            return await connection.unary(method)(request, timeout=self.timeout, metadata=metadata)

        return await self.ask(doing, invoke)

    async def ask(self, doing: Doing, invoke: Callable[[Connection, Metadata], Awaitable[T]]) -> T:
        """Run `invoke` on one connection after another until a member answers; returns its result.

        Raises:
            EtcdError: etcd refused, or no member answered.
        """
        failed: dict[str, str] = {}
        tries = len(self._order)
        excused = renewed = False
        while tries:
            async with self._lend() as connection:
                worked, token = connection.worked, self.account.token
                try:
                    metadata = await self.account.metadata(connection, self.timeout)
                    token = self.account.token
                    answer = await invoke(connection, metadata)
                except grpc.aio.AioRpcError as exc:
                    if is_stale_token(exc) and self.account.user and not renewed:
                        renewed = True
                        self.account.forget(token)
                        continue
                    if not answers_elsewhere(exc):
                        connection.worked = True
                        raise refused(doing, connection.endpoint, self.account.user, exc) from None
                    self.leave(connection)
                    failed[connection.endpoint] = self._reason(exc, first=not worked)
                    # If a connection breaks that worked until now, that says nothing of the
                    # member: it may be up again, and we ask it over a new connection.
                    if not worked or excused:
                        tries -= 1
                    excused = True
                except asyncio.CancelledError:
                    # grpc cancels the calls of a closed channel, although nobody cancelled our task.
                    if not self._closed or being_cancelled():
                        raise
                    raise EtcdError(f"cannot {doing}: it was closed meanwhile", kind="away") from None
                else:
                    connection.worked = True
                    return answer
        listed = "; ".join(
            f"{one}: {failed[one]}" for one in (*self.endpoints.addresses, *self._learned) if one in failed
        )
        raise EtcdError(f"cannot {doing}: {listed} ({_HINT})", kind="away")

    def _reason(self, error: grpc.aio.AioRpcError, *, first: bool) -> str:
        tls = self.endpoints.tls is not None
        return reason(error, self.timeout, tls=tls if first else None)

    @asynccontextmanager
    async def stream(self, method: EtcdMethod, doing: Doing) -> AsyncIterator[Stream]:
        """A call in which both sides stream; it ends with the block.

        Raises:
            EtcdError: There is no connection, or no token.
        """
        async with self._lend() as connection:
            try:
                metadata = await self.account.metadata(connection, self.timeout)
            except grpc.aio.AioRpcError as exc:
                self.leave(connection)
                why = f"{connection.endpoint}: {reason(exc, self.timeout)}"
                raise EtcdError(f"cannot {doing}: {why}", kind="away") from None
            call = connection.stream(method)(metadata=metadata)
            try:
                yield Stream(self, connection, call, doing)
            finally:
                call.cancel()

    async def ask_one(self, endpoint: str, method: EtcdMethod, request: Any, doing: Doing) -> Any:
        """The response of this member, over a connection of its own and without a user.

        Raises:
            EtcdError: The member did not answer.
        """
        connection = self._connect(endpoint)
        try:
            return await connection.unary(method)(request, timeout=self.timeout)
        except grpc.aio.AioRpcError as exc:
            if not answers_elsewhere(exc):
                raise refused(doing, endpoint, "", exc) from None
            raise EtcdError(f"{endpoint}: {self._reason(exc, first=True)}", kind="away") from None
        finally:
            await connection.close()
