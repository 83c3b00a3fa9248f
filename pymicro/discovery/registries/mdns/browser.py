"""All that this process asks on a link, and who is handed the answers."""

from __future__ import annotations

import asyncio
import contextvars
import logging

from pymicro.base.errors import RegistryError
from pymicro.base.tasks import Tasks
from pymicro.discovery.registries.mdns.asking import Conversation, Timing
from pymicro.discovery.registries.mdns.link import Address, Link
from pymicro.discovery.registries.mdns.messages import Answer, Question
from pymicro.discovery.registries.mdns.names import SERVICES, listed_service, service_of
from pymicro.discovery.registries.mdns.watched import Subscription, Watched

__all__ = ["Browser"]

log = logging.getLogger("pymicro.registry.mdns")

# In the list: whoever claims more is no peer.
MOST_SERVICES = 4096
# Whoever floods the link with nonsense must not flood the log.
_MOST_COMPLAINTS = 128


class _Listing(Conversation):
    """The question for the list of services."""

    def __init__(self, link: Link, timing: Timing) -> None:
        super().__init__(link, timing, Question(SERVICES))
        self.services: set[str] = set()

    def found(self) -> bool:
        """Whether any service is known."""
        return bool(self.services)


class Browser:
    """Watches services on an open link; it is handed each answer that is heard there.

    Args:
        link: Open while anything is watched.
        tasks: Own the asking.
        timing: How often.
    """

    def __init__(self, link: Link, tasks: Tasks, timing: Timing) -> None:
        self._link = link
        self._tasks = tasks
        self._timing = timing
        self._watched: dict[str, Watched] = {}
        self._listings: list[_Listing] = []
        self._complaints: set[tuple[str, str]] = set()

    def subscribe(self, service: str) -> Subscription:
        """Begin a watch: what its first set says is asked after this moment."""
        watched = self._watched.get(service)
        if watched is None or watched.task is None or watched.task.done():
            watched = self._watched[service] = Watched(self._link, self._timing, service, self.complain)
        subscription = Subscription()
        watched.subscriptions.append(subscription)
        watched.joined.set()
        if watched.task is None:
            # In an empty context: whoever watches first may be a handler, whose deadline is not ours.
            watched.task = contextvars.Context().run(
                self._tasks.start, watched.run(), f"questions for {service}"
            )
        return subscription

    async def unsubscribe(self, service: str, subscription: Subscription) -> None:
        """End a watch; the last one of a service ends the asking."""
        watched = self._watched.get(service)
        if watched is None or watched.task is None:
            return
        if subscription in watched.subscriptions:
            watched.subscriptions.remove(subscription)
        # One that failed has none any more.
        if not watched.subscriptions:
            del self._watched[service]
            watched.task.cancel()
            await asyncio.wait([watched.task])

    def fail_all(self, error: RegistryError) -> None:
        """End every watch with `error`."""
        for watched in self._watched.values():
            for subscription in watched.subscriptions:
                subscription.latest.set(error)

    async def services(self) -> list[str]:
        """Ask for the list of services.

        Raises:
            RegistryError: It could not be asked.
        """
        listing = _Listing(self._link, self._timing)
        self._listings.append(listing)
        try:
            await listing.settle(listing.ask())
        finally:
            self._listings.remove(listing)
        return sorted(listing.services)

    def hear(self, answer: Answer, source: Address) -> None:
        """Take in a message from the link."""
        for pointer in answer.pointers:
            if pointer.name == SERVICES and pointer.ttl:
                self._list(pointer.target, source)
            elif not pointer.ttl and (watched := self._watched_at(pointer.name)):
                watched.forget(pointer.target)
        for seen in answer.instances:
            # A node of a.b is one of b too, as far as its name goes: its text decides.
            at = seen.name.find(".")
            while at >= 0:
                if watched := self._watched_at(seen.name[at + 1 :]):
                    watched.hear(seen, source)
                at = seen.name.find(".", at + 1)

    def complain(self, source: Address, why: str) -> None:
        """Say once what is wrong with what `source` sends."""
        complaint = source[0], why
        if complaint in self._complaints or len(self._complaints) >= _MOST_COMPLAINTS:
            log.debug("passing over what %s says: %s", *complaint)
            return
        self._complaints.add(complaint)
        log.warning("passing over what %s says: %s", *complaint)

    def _watched_at(self, name: str) -> Watched | None:
        return self._watched.get(service_of(name))

    def _list(self, name: str, source: Address) -> None:
        service = listed_service(name)
        for listing in self._listings:
            listing.answers += 1
            if service and len(listing.services) < MOST_SERVICES:
                listing.services.add(service)
