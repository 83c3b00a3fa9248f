"""Registry `mdns`: nodes on one link, found by multicast DNS in go-micro's own form.

There is no server: each process answers for its own nodes (`responder`) and asks for the
nodes of others (`browser`). Names are in `names`, the text of a node in `text`, messages in
`messages`, sockets in `link`, and `interfaces` finds the interface; this module is the
registry over them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from ipaddress import ip_address
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.findings import Finding
from pymicro.base.printable import excerpt, listed
from pymicro.base.suggest import did_you_mean
from pymicro.base.turnstile import Turnstile
from pymicro.base.watches import Watches
from pymicro.discovery.registries.mdns.browser import Browser
from pymicro.discovery.registries.mdns.conversation import MdnsTiming
from pymicro.discovery.registries.mdns.interfaces import place
from pymicro.discovery.registries.mdns.link import Address, Link
from pymicro.discovery.registries.mdns.messages import SRV, MdnsQuestion, Query, read, require_zeroconf
from pymicro.discovery.registries.mdns.names import instance_name, service_problem
from pymicro.discovery.registries.mdns.responder import Responder
from pymicro.nodes.address import split_address
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["MdnsRegistry", "MdnsTiming"]

_TIMING = MdnsTiming()


class MdnsRegistry(Turnstile):
    """Nodes on one link: this machine's loopback interface unless the settings name another.

    go-micro 1.x finds these nodes, and this registry finds go-micro's. mdns believes
    everybody on the link: anybody there can claim to be a node of any service, at any
    address, and can say goodbye for others. (A pymicro process contradicts such a goodbye.)
    Use it on links that you trust.

    A node that stops says goodbye and is gone at once. A killed node leaves the set 8 to 26
    seconds later, because it no longer answers. Calls avoid it sooner, as its connections
    break.

    Args:
        config: Its `registry_address` is an interface or an address of one, such as
            `eth0`, `192.168.1.7` or `[fd00::7]`, with a port if that is not 5353;
            `127.0.0.1` if empty. go-micro finds only nodes with IPv4 addresses.
        timing: How often it asks and how long it waits.

    Attributes:
        watches: How its watches fare.

    Raises:
        ConfigError: `registry_address` cannot be used.
        PluginError: zeroconf is not installed.
    """

    name = "mdns"
    drain_delay = 0.0
    # Its watchers hear the goodbye at once, and gather changes for a moment.
    notice = 0.2

    def __init__(self, config: Config, *, timing: MdnsTiming = _TIMING) -> None:
        super().__init__()
        require_zeroconf()
        self._place = place(config.registry_address)
        self._timing = timing
        self.watches = Watches()
        self._link = Link(self._place, self._hear, self.describe())
        self._responder = Responder(self._link)
        self._browser: Browser | None = None

    async def _enter(self) -> None:
        self._link.open()
        try:
            browser = Browser(self._link, self._timing, self.describe(), self.watches)
            self._browser = await browser.__aenter__()
        except BaseException:
            self._link.close()
            raise

    async def _leave(self) -> None:
        browser, self._browser = self._browser, None
        assert browser is not None
        try:
            try:
                await self._responder.close()
            finally:
                browser.fail_all(RegistryError(f"{self.describe()} is closed"))
                await browser.__aexit__(None, None, None)
        finally:
            self._link.close()

    def __repr__(self) -> str:
        return f"<MdnsRegistry {str(self._place)!r} registered={len(self._responder.nodes)}>"

    def describe(self) -> str:
        """`registry mdns (127.0.0.1)`."""
        return f"registry mdns ({self._place})"

    def advertised_host(self) -> str:
        """The interface's address.

        Raises:
            ConfigError: There is no such interface, or it has no address that others can dial.
        """
        interface = self._link.interface
        for address in (interface.address, *interface.addresses):
            ip = ip_address(address)
            if not (ip.version == 6 and ip.is_link_local):
                return address
        raise ConfigError(
            f"registry mdns: {interface.name} has the address {interface.address} only, which nobody can "
            "dial without naming an interface of their own: set server_advertise"
        )

    async def register(self, node: Node) -> None:
        """Make `node` known, or check that it still can be: we must hear our own question.

        Raises:
            ConfigError: mdns cannot carry the node, or it has a loopback address on another
                interface.
            RegistryError: Multicast does not work at the moment.
        """
        self._opened()
        self._check_address(node)
        self._responder.publish(node)
        # The question asks for a name that only we have, so that only we answer.
        question = MdnsQuestion(instance_name(node.id, node.service), SRV)
        for _ in range(2):
            self._link.ask(question)
            if await self._link.heard(self._timing.answer):
                return
            error = self._link.doubt()
        raise error

    async def deregister(self, node: Node) -> None:
        """Tell everybody that `node` is gone, if it was registered through this instance."""
        self._opened()
        self._responder.withdraw(node)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, a moment after the question and after each change.

        An unchanged set comes again each time the watch has asked all nodes.

        Raises:
            RegistryError: No service can have this name, multicast does not
                work, or this registry was left.
        """
        browser = self._opened()
        if problem := service_problem(service):
            raise RegistryError(f"{self.describe()}: {problem}")
        async with aclosing(browser.watch(service)) as sets:
            async for nodes in sets:
                yield nodes

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted.

        Raises:
            RegistryError: Multicast does not work.
        """
        return await self._opened().services()

    async def diagnose(self, service: str) -> AsyncGenerator[Finding, None]:
        """Whether multicast works on the interface, and the nodes on the link, those of `service` apart."""
        browser = self._opened()
        interface = self._link.interface
        where = f"{interface.name} ({interface.address}, UDP port {self._place.port})"
        try:
            there = await browser.services()
        except RegistryError as exc:
            yield Finding(
                "multicast",
                "problem",
                str(exc),
                f"see that {interface.name} is up and can multicast (ip link), that there is a route to "
                "224.0.0.0/4, and that no firewall drops UDP",
            )
            return
        yield Finding("multicast", "ok", f"our own question comes back on {where}")
        if interface.loopback:
            yield Finding(
                "interface",
                "note",
                "only this machine is asked",
                "for nodes on others, set registry_address to the interface that leads to them",
            )
        yield Finding("services", "ok", f"{listed(there) or 'nobody'} answered")
        if not service:
            return
        if problem := service_problem(service):
            yield Finding("name", "problem", problem, "give the service another name")
            return
        try:
            async with aclosing(self.watch(service)) as sets:
                found = await anext(sets)
                doubles = browser.doubles(service)
        except RegistryError as exc:
            yield Finding("nodes", "problem", str(exc))
            return
        for node_id, addresses in doubles.items():
            yield Finding(
                "ids",
                "problem",
                f"{len(addresses)} processes answer for {node_id} ({listed(addresses)}): "
                "clients see now one and now the other",
                "give each a server_id of its own",
            )
        if found:
            yield Finding("nodes", "ok", f"{len(found)} node{'s' * (len(found) != 1)} of {service} answered")
            return
        yield Finding(
            "nodes",
            "problem",
            f"no node of {service} answered on {where}{did_you_mean(service, there)}",
            "start it with registry mdns on this link, with a registry_address of the same network; "
            "switches and Wi-Fi may keep multicast back",
        )

    def _hear(self, data: bytes, source: Address, to_group: bool) -> Iterator[None]:
        """Take in a packet; it stops where others may have their turn."""
        browser = self._browser
        try:
            message = read(data)
            if isinstance(message, Query):
                if to_group:
                    self._responder.answer(message, source)
                return
            if to_group:
                self._responder.hear(message)
            self._responder.compare(message, source)
            yield
            if browser is not None:
                yield from browser.hear(message, source)
        except Exception as exc:
            # A packet that trips us says nothing of the next one. A ValueError is written for people.
            if browser is not None:
                browser.complain(source, str(exc) if isinstance(exc, ValueError) else excerpt(exc, 1000))

    def _check_address(self, node: Node) -> None:
        """Refuse a loopback address that nobody else on the link could dial."""
        interface = self._link.interface
        try:
            host, _ = split_address(node.address)
            loopback = ip_address(host).is_loopback
        except ValueError:
            return  # the responder reports this fault
        if loopback and not interface.loopback:
            raise ConfigError(
                f"registry mdns on {interface.name}: {node.service} would be registered at {node.address}, "
                "which no other machine can dial: set server_address to an address that they can "
                f"({interface.address}:0, or 0.0.0.0:0 for all of this machine's)"
            )

    def _opened(self) -> Browser:
        if self._browser is None:
            raise RuntimeError(f"{self.describe()} is used outside its `async with`")
        return self._browser
