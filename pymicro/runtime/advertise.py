"""Keeps a node registered while its service is ready."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from pymicro.base.backoff import Backoff
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import Recorder
from pymicro.base.tasks import Tasks
from pymicro.discovery.registry import Registry
from pymicro.nodes.address import is_ip, join_address, split_address
from pymicro.nodes.node import Node

__all__ = ["Advertisement", "advertised_address"]

log = logger("pymicro.advertise")

# Seconds in which a registry must forget a node that stops: the rest of the stop must not
# wait for a registry that is away.
DEREGISTER_TIMEOUT = 5.0

_WILDCARDS = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104, RUF100


def advertised_address(advertise: str, bound: tuple[str, int], registry: Registry) -> str:
    """The address to register.

    Args:
        advertise: The setting `server_advertise`: host, host:port or nothing.
        bound: Host and real port on which the server listens.
        registry: Names the host if the server listens on all of them.

    Raises:
        ConfigError: `advertise` cannot be parsed, or is missing for a Unix socket.
    """
    host, port = bound
    if not advertise and host.startswith(("unix:", "unix-abstract:")):
        raise ConfigError(
            f"server_address {host} is a Unix socket, and a registry lists host:port: set server_advertise "
            "to where callers reach it, for example its proxy"
        )
    if advertise:
        try:
            host, port = split_address(advertise, default_port=port)
        except ValueError as exc:
            raise ConfigError(f"server_advertise: {exc}") from exc
        if not host:
            raise ConfigError(f"server_advertise: {excerpt(advertise)} names no host")
    elif host in _WILDCARDS or not is_ip(host):
        host = registry.advertised_host()
    return join_address(host, port)


class Advertisement:
    """A node's registration: made on entry, renewed, and withdrawn on exit.

    If the registry is away when the service starts, the service starts all the
    same: calls by address work, and the registration is made as soon as it can
    be.

    Args:
        registry: An entered registry.
        node: What to register.
        interval: Seconds between renewals; 0 for none.
        wanted: Whether the node is to be registered at once; see `want`.
        recorder: Where failures are counted; None if they are not.

    Attributes:
        registered: Whether the last attempt succeeded, and the node was not taken back since.
    """

    def __init__(
        self,
        registry: Registry,
        node: Node,
        interval: float,
        *,
        wanted: bool = True,
        recorder: Recorder | None = None,
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._node = node
        self._interval = interval
        self._wanted = wanted
        # The number of the newest wish; the keeper of an older one ends.
        self._wish = 0
        self.registered = False
        # Whether the registry may have it.
        self._there = False
        self._withdrawn = False
        self._complaint = ""
        self._tasks = Tasks(f"registration of {node.service}")
        self._keeper: asyncio.Task[None] | None = None
        # The registry is asked one thing at a time.
        self._asking = asyncio.Lock()
        self._taking_back = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        try:
            if self._wanted:
                await self._renew(starting=True)
            self._keep_from_now()
        except BaseException:
            # A signal cancelled the start: withdraw whatever has been registered by now.
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.withdraw()

    @property
    def complaint(self) -> str:
        """Why the last attempt failed; empty if it did not."""
        return self._complaint

    def want(self, wanted: bool) -> None:
        """Have the node in the registry from now on, or out of it, until it is withdrawn for good.

        Returns at once. A registry that is away is asked again until it has answered.
        """
        if wanted is self._wanted or self._withdrawn:
            return
        self._wanted = wanted
        if self._keeper is not None:
            # What is half taken back is taken back first: that is bounded, and a registration is not.
            if not self._taking_back:
                self._keeper.cancel()
            self._keep_from_now(at_once=True)

    async def withdraw(self) -> None:
        """Withdraw the node now, for good, unless that has been done."""
        if self._withdrawn:
            return
        self._withdrawn = True
        # End these first, so that no renewal brings the node back.
        await self._tasks.__aexit__(None, None, None)
        if not self._there:
            return
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT):
                await self._registry.deregister(self._node)
        except (RegistryError, TimeoutError) as error:
            log.warning("%s could not be deregistered: %s", self._node.id, str(error) or "no answer in time")

    async def _renew(self, *, starting: bool = False) -> None:
        self._there = True
        try:
            await self._registry.register(self._node)
        except RegistryError as exc:
            self._failed()
            self._complain("registered", str(exc))
            return
        except Exception as exc:
            if isinstance(exc, ConfigError) and starting:
                raise
            self._failed()
            self._complaint = excerpt(exc, 1000)
            # A user's plug-in failed; its bug must not end the service.
            log.exception("%s could not be registered; trying again", self._node.id)
            return
        self.registered = True
        if self._complaint:
            self._complaint = ""
            log.info("%s is registered", self._node.id)

    def _failed(self) -> None:
        self.registered = False
        if self._recorder is not None:
            self._recorder.registry_errors["register"] += 1

    async def _take_back(self) -> None:
        self.registered = False
        self._taking_back = True
        try:
            async with asyncio.timeout(DEREGISTER_TIMEOUT):
                await self._registry.deregister(self._node)
        except (RegistryError, TimeoutError) as exc:
            self._complain("deregistered", str(exc) or "no answer in time")
            return
        except Exception:
            log.exception("%s could not be deregistered; trying again", self._node.id)
            return
        finally:
            self._taking_back = False
        self._there = False
        self._complaint = ""

    def _complain(self, what: str, why: str) -> None:
        # Complain once: pymicro asks a registry that is away for an hour a hundred times.
        level = logging.DEBUG if why == self._complaint else logging.WARNING
        self._complaint = why
        log.log(level, "%s could not be %s: %s; trying again", self._node.id, what, why)

    def _keep_from_now(self, *, at_once: bool = False) -> None:
        self._wish += 1
        self._keeper = self._tasks.start(self._keep(self._wish, at_once), "renewal")

    async def _keep(self, wish: int, at_once: bool) -> None:
        backoff = Backoff(0.5, max(self._interval, 1.0), floor=0.1)
        while True:
            if at_once:
                at_once = False
            elif not (self.registered if self._wanted else not self._there):
                await asyncio.sleep(backoff.next())
            elif self._wanted and self._interval:
                backoff.reset()
                await asyncio.sleep(self._interval)
            else:
                return
            async with self._asking:
                if wish != self._wish:
                    return
                if self._wanted:
                    await self._renew()
                elif self._there:
                    await self._take_back()
            if wish != self._wish:
                return
