"""The two sockets that speak multicast DNS on one interface.

The group's socket is bound to the group's address and port, which any number of
processes share. Each process gets every packet to the group, and none that was sent to
this machine alone. Answers leave through this socket, since a strict receiver accepts
them from that port only (RFC 6762 11). Questions leave through the asker's socket, which
has a port of its own: so the answers come back to it alone, as with go-micro.

Our own questions tell whether multicast works at all: the group's socket must hear them
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.discovery.registries.mdns.interfaces import Interface, Place
from pymicro.discovery.registries.mdns.messages import MdnsQuestion, write_query

__all__ = ["Address", "Link", "group_socket"]

log = logger("pymicro.registry.mdns")

GROUP4 = "224.0.0.251"
GROUP6 = "ff02::fb"

# Some hundred nodes answer in the same millisecond; the kernel grants as much as it allows.
_BUFFER = 1 << 20
# Seconds of reading packets before other tasks get their turn; one node of a packet may take ten
# milliseconds more.
_SLICE = 0.003
# Python's socket lacks these. Without them Linux also delivers groups that other programs joined.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29

# The addresses of recvfrom and sendto: host and port come first.
Address = tuple[str, int] | tuple[str, int, int, int]


class Link:
    """Multicast DNS on one interface, while it is open.

    Args:
        place: The interface and the port.
        hear: Called with each packet, its sender, and whether it was sent to the group;
            not called for packets that came through a router. The work stops at each `yield`
            where the event loop may turn.
        where: The registry, for messages.
    """

    def __init__(
        self, place: Place, hear: Callable[[bytes, Address, bool], Iterator[None]], where: str
    ) -> None:
        self._place = place
        self._hear = hear
        self._where = where
        self._interface: Interface | None = None
        self._group: socket.socket | None = None
        self._asker: socket.socket | None = None
        self._doubted = False
        # The rest of a packet that was not taken in within one turn of the loop.
        self._rest: Iterator[None] | None = None
        self._heard = asyncio.Event()
        # When we last heard a question of our own.
        self.echoed = 0.0

    @property
    def port(self) -> int:
        """The group's port."""
        return self._place.port

    @property
    def interface(self) -> Interface:
        """The interface as it was when the link was last opened.

        Raises:
            ConfigError: The link was never open, and there is no such interface.
        """
        return self._interface or self._find()

    def _find(self) -> Interface:
        try:
            return Interface.find(self._place.host)
        except LookupError as exc:
            raise ConfigError(f"registry_address of registry mdns: {exc}") from None

    def open(self) -> None:
        """Join the group.

        Raises:
            ConfigError: There is no such interface.
            RegistryError: Multicast does not work on it.
        """
        interface = self._find()
        loop = asyncio.get_running_loop()
        try:
            self._group = group_socket(interface, self._place.port)
            self._asker = _asker_socket(interface)
        except OSError as exc:
            self.close()
            raise RegistryError(
                f"{self._where}: multicast does not work on {interface.name} ({interface.address}): "
                f"{exc.strerror}"
            ) from exc
        self._interface = interface
        self._doubted = False
        self._heard = asyncio.Event()
        for opened in (self._group, self._asker):
            # In an empty context: the caller that enters the registry may have a deadline.
            contextvars.Context().run(loop.add_reader, opened, self._read, opened)

    def close(self) -> None:
        """Leave the group."""
        for opened in (self._group, self._asker):
            if opened is not None:
                asyncio.get_running_loop().remove_reader(opened)
                opened.close()
        self._group = self._asker = self._rest = None

    def ask(self, question: MdnsQuestion) -> float:
        """Ask everybody; returns the moment, to compare with `echoed`.

        If we did not hear the last question, new sockets are made: the interface may have
        gone and come back.

        Raises:
            RegistryError: The question could not be sent.
        """
        if self._doubted or self._asker is None:
            self.close()
            try:
                self.open()
            except ConfigError as exc:
                raise RegistryError(f"{self._where}: {exc}") from exc
        assert self._asker is not None
        now = asyncio.get_running_loop().time()
        self._heard.clear()
        try:
            self._asker.sendto(write_query(question), self._to_group())
        except BlockingIOError:
            pass  # lost, as any packet may be
        except OSError as exc:
            raise self.doubt(exc.strerror) from exc
        return now

    async def heard(self, within: float) -> bool:
        """Whether an earlier question comes back within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._heard.wait()
        # In a busy process, both may come in the same turn of the loop.
        return self._heard.is_set()

    def doubt(self, why: str | None = None) -> RegistryError:
        """The error for own questions that we did not hear; the next one gets new sockets."""
        self._doubted = True
        interface = self._interface
        name = interface.name if interface else self._place.host
        text = (
            f"{self._where}: multicast does not work on {name}: {why or 'our own questions do not come back'}"
        )
        if interface and interface.loopback and ":" in interface.address:
            text += (
                " (127.0.0.1 works as it is; for ::1 Linux needs "
                "`ip -6 route add local ff02::fb dev lo table local`)"
            )
        return RegistryError(text)

    def tell(self, message: bytes, to: Address | None = None) -> None:
        """Send an answer to one asker, or to everybody; it may get lost, like all packets."""
        if self._group is None:
            return
        try:
            self._group.sendto(message, to or self._to_group())
        except OSError as exc:
            # An asker may be gone; if the interface is gone, our next question finds out.
            log.debug("%s: an answer to %s was not sent: %s", self._where, to or "all", exc)

    def _to_group(self) -> Address:
        interface = self.interface
        if ":" in interface.address:
            return GROUP6, self._place.port, 0, interface.index
        return GROUP4, self._place.port

    def _read(self, opened: socket.socket) -> None:
        if self._rest is not None:
            return  # the next turn of the loop goes on with it
        until = time.monotonic() + _SLICE
        while True:
            try:
                data, source = opened.recvfrom(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                log.debug("%s: %s", self._where, exc)  # an asker has closed its port, say
                return
            if opened is self._group and self._own(source):
                self.echoed = asyncio.get_running_loop().time()
                self._heard.set()
            if not self.interface.reaches(source[0]):
                log.debug("%s: passing over a packet from %s, beyond a router", self._where, source[0])
            else:
                self._take(self._hear(data, source, opened is self._group), until)
            # `hear` may have closed it.
            if opened.fileno() < 0 or self._rest is not None or time.monotonic() >= until:
                return

    def _take(self, work: Iterator[None], until: float) -> None:
        """Take in a packet until that moment; the rest of it in later turns of the loop."""
        for _ in work:
            if time.monotonic() >= until:
                self._rest = work
                contextvars.Context().run(asyncio.get_running_loop().call_soon, self._go_on, work)
                return

    def _go_on(self, work: Iterator[None]) -> None:
        if self._rest is work:  # the link was not closed meanwhile
            self._rest = None
            self._take(work, time.monotonic() + _SLICE)

    def _own(self, source: Address) -> bool:
        return self._asker is not None and self._asker.getsockname()[:2] == source[:2]


def group_socket(interface: Interface, port: int) -> socket.socket:
    """A socket that hears the group on one interface.

    Raises:
        OSError: The interface cannot do it, or a program that does not share holds the port.
    """
    version6 = ":" in interface.address
    opened = socket.socket(socket.AF_INET6 if version6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _prepare(opened, interface)
        if version6:
            opened.bind((_bound_to(GROUP6), port, 0, interface.index))
            membership = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", interface.index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
            if sys.platform == "linux":
                with contextlib.suppress(OSError):  # older than Linux 4.20
                    opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        else:
            opened.bind((_bound_to(GROUP4), port))
            membership = socket.inet_aton(GROUP4) + socket.inet_aton(interface.address)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            if sys.platform == "linux":
                opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    except BaseException:
        opened.close()
        raise
    return opened


def _bound_to(group: str) -> str:
    # Other systems cannot send from a group's address. Their sockets hear only the groups
    # that they joined themselves, so they need no such bounds.
    return group if sys.platform == "linux" else ""


def _asker_socket(interface: Interface) -> socket.socket:
    version6 = ":" in interface.address
    opened = socket.socket(socket.AF_INET6 if version6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        _prepare(opened, interface)
        opened.bind((interface.address, 0, 0, interface.index) if version6 else (interface.address, 0))
    except BaseException:
        opened.close()
        raise
    return opened


def _prepare(opened: socket.socket, interface: Interface) -> None:
    """Send multicast through this interface, and let this machine's own sockets hear it too."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    # RFC 6762 11 wants 255 hops; multicast leaves no link all the same.
    if ":" in interface.address:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    else:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface.address))
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
