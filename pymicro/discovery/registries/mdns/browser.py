"""Asks all questions of this process on a link, and hands out the answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from pymicro.base.errors import RegistryError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import shortened
from pymicro.base.sharing import Sharing
from pymicro.base.watches import Watches
from pymicro.discovery.registries.mdns.conversation import Conversation, MdnsTiming
from pymicro.discovery.registries.mdns.link import Address, Link
from pymicro.discovery.registries.mdns.messages import Answer, MdnsQuestion
from pymicro.discovery.registries.mdns.names import SERVICES, listed_service, service_of
from pymicro.discovery.registries.mdns.watch import MdnsWatch
from pymicro.nodes.node import NodeSet

__all__ = ["Browser"]

log = logger("pymicro.registry.mdns")

# The most services in the list: a peer that claims more is none.
MOST_SERVICES = 4096
# So many complaints are remembered, so that each is said once.
_MOST_COMPLAINTS = 128
_LONGEST_COMPLAINT = 300


class _Listing(Conversation):
    """The question for the list of services."""

    def __init__(self, link: Link, timing: MdnsTiming) -> None:
        super().__init__(link, timing, MdnsQuestion(SERVICES))
        self.services: set[str] = set()

    def found(self) -> bool:
        """Whether any service is known."""
        return bool(self.services)


class Browser:
    """Watches services on an open link; the link hands it each answer that it hears.

    `async with` it: leaving ends all questions.

    Args:
        link: The link, which is open while anything is watched.
        timing: How often it asks and how long it waits.
        name: The registry's name, for the names of tasks.
        watches: Where watches write down how they fare.
    """

    def __init__(self, link: Link, timing: MdnsTiming, name: str, watches: Watches) -> None:
        self._link = link
        self._timing = timing
        self._watches = watches
        self._watched: Sharing[str, MdnsWatch] = Sharing(name)
        self._listings: list[_Listing] = []
        self._complaints: set[tuple[str, str]] = set()
        self._quota = LogQuota(log, "more messages are passed over")
        self._gone = LogQuota(log, "more nodes are gone")

    async def __aenter__(self) -> Self:
        await self._watched.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._watched.__aexit__(kind, exc, traceback)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The nodes of `service`; the first set comes from a question sent after this moment.

        Raises:
            RegistryError: The question could not be sent.
        """

        def make() -> tuple[MdnsWatch, Coroutine[Any, Any, None]]:
            record = self._watches.begin(f"answers about {service}")
            watched = MdnsWatch(self._link, self._timing, service, self.complain, self._gone, record)
            return watched, watched.run()

        async with (
            self._watched.use(service, f"questions for {service}", make) as watched,
            aclosing(watched.follow()) as sets,
        ):
            async for nodes in sets:
                yield nodes

    def doubles(self, service: str) -> dict[str, list[str]]:
        """Ids of a watched service for which several answered one question, and their addresses."""
        watched = self._watched.get(service)
        return watched.doubles() if watched is not None else {}

    def fail_all(self, error: RegistryError) -> None:
        """End every watch with `error`."""
        for watched in self._watched.running.values():
            watched.fail(error)

    async def services(self) -> list[str]:
        """Ask for the list of services.

        Raises:
            RegistryError: The question could not be sent.
        """
        listing = _Listing(self._link, self._timing)
        self._listings.append(listing)
        try:
            await listing.wait_for_answers(listing.ask())
        finally:
            self._listings.remove(listing)
        return sorted(listing.services)

    def hear(self, answer: Answer, source: Address) -> Iterator[None]:
        """Take in a message from the link; it stops after each node, whose text may be long to read."""
        for pointer in answer.pointers:
            if pointer.name == SERVICES and pointer.ttl:
                self._list(pointer.target, source)
            elif not pointer.ttl and (watched := self._watched_at(pointer.name)):
                watched.forget(pointer.target)
        for seen in answer.instances:
            # By its name, a node of a.b may also be one of b: its text decides.
            at = seen.name.find(".")
            while at >= 0:
                if watched := self._watched_at(seen.name[at + 1 :]):
                    watched.hear(seen, source)
                at = seen.name.find(".", at + 1)
            yield

    def complain(self, source: Address, why: str) -> None:
        """Log once what is wrong with the messages of `source`."""
        complaint = source[0], shortened(why, _LONGEST_COMPLAINT)
        known = complaint in self._complaints or len(self._complaints) >= _MOST_COMPLAINTS
        if not known and self._quota.say(logging.WARNING, "passing over what %s says: %s", *complaint):
            self._complaints.add(complaint)
        else:
            log.debug("passing over what %s says: %s", *complaint)

    def _watched_at(self, name: str) -> MdnsWatch | None:
        return self._watched.get(service_of(name))

    def _list(self, name: str, source: Address) -> None:
        service = listed_service(name)
        for listing in self._listings:
            listing.answers += 1
            if service and len(listing.services) < MOST_SERVICES:
                listing.services.add(service)
