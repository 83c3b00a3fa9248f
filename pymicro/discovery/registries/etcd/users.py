"""The user that asks etcd: it gets a token at need, and another when that has run out."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.discovery.registries.etcd.connection import Connection
from pymicro.discovery.registries.etcd.errors import Doing, EtcdError, answers_elsewhere, refused
from pymicro.discovery.registries.etcd.messages import AUTHENTICATE, message

__all__ = ["LEADER", "Account", "Metadata"]

log = logger("pymicro.registry.etcd")

Metadata = list[tuple[str, str]]

# With this, a member that is cut off from its cluster refuses at once instead of waiting, and
# ends its watches (etcd's own client: WithRequireLeader).
LEADER = ("hasleader", "true")


class Account:
    """A user with a password, or nobody.

    A token is good at every member of a cluster. It runs out after some minutes without
    use, and when the member that made it restarts.

    Args:
        user: Its name; empty for nobody, or for the user that a client certificate names.
        password: The user's password.

        Attributes:
        user: As given.
        token: The token in use; empty before the first call, and if none is needed.
        needless: Whether there is nothing to authenticate: no user is given, or etcd has
            users switched off.
    """

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.token = ""
        self.needless = not user
        self._password = password
        self._authenticating = asyncio.Lock()

    def forget(self, token: str) -> None:
        """Authenticate before the next call, unless somebody has done so since `token` was used."""
        if token == self.token:
            self.token = ""
            self.needless = not self.user

    async def metadata(self, connection: Connection, timeout: float) -> Metadata:
        """Metadata for every request: that it needs a leader, and the user's token.

        Raises:
            AioRpcError: The member did not answer.
            EtcdError: etcd does not know the user or the password.
        """
        if not self.needless and not self.token:
            async with self._authenticating:
                if not self.needless and not self.token:
                    await self._authenticate(connection, timeout)
        return [LEADER, ("token", self.token)] if self.token else [LEADER]

    async def _authenticate(self, connection: Connection, timeout: float) -> None:
        request = message("AuthenticateRequest", name=self.user, password=self._password)
        try:
            answer = await connection.unary(AUTHENTICATE)(request, timeout=timeout, metadata=[LEADER])
        except grpc.aio.AioRpcError as exc:
            details = exc.details() or ""
            if "authentication is not enabled" in details:
                log.info(
                    "registry etcd: %s has no users switched on: going on without registry_user %s",
                    connection.endpoint,
                    excerpt(self.user),
                )
                self.needless = True
                return
            if answers_elsewhere(exc):
                raise
            if "authentication failed" in details:
                raise EtcdError(
                    f"{connection.endpoint} knows no user {excerpt(self.user)} with this password: "
                    "see registry_user and registry_password",
                    kind="user",
                ) from None
            doing = Doing(f"authenticate as {excerpt(self.user)}")
            raise refused(doing, connection.endpoint, self.user, exc) from None
        self.token = answer.token
