"""The two sockets by which one interface's multicast DNS is spoken.

The group's socket is bound to the group's address and port, which any number
of processes share: each gets every packet to the group, and none that was sent
to this machine alone. Answers leave through it, since who looks closely takes
them from that port only (RFC 6762 11). Questions leave through the asker's
socket, whose port is its own: as with go-micro the answers come back to it, and
to nobody else.

Whether multicast works at all is told by our own questions: the group's socket
must hear them too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import socket
import struct
import sys
from collections.abc import Callable

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.mdns.interfaces import Interface, Place
from pymicro.discovery.registries.mdns.messages import MdnsQuestion, write_query

__all__ = ["Address", "Link", "group_socket"]

log = logging.getLogger("pymicro.registry.mdns")

GROUP4 = "224.0.0.251"
GROUP6 = "ff02::fb"

# Some hundred nodes answer in the same millisecond; the kernel gives what it allows.
_BUFFER = 1 << 20
# Packets read before others get their turn.
_SLICE = 32
# Not in Python's socket; without it Linux hands over what other programs' sockets joined.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29

# What recvfrom gives and sendto takes: host and port come first.
Address = tuple[str, int] | tuple[str, int, int, int]


class Link:
    """Multicast DNS on one interface, while it is open.

    Args:
        place: Which interface, and the port.
        hear: Called with each packet, where it came from and whether it was sent
            to the group; not with what came through a router.
        where: The registry, for messages.
    """

    def __init__(self, place: Place, hear: Callable[[bytes, Address, bool], None], where: str) -> None:
        self._place = place
        self._hear = hear
        self._where = where
        self._interface: Interface | None = None
        self._group: socket.socket | None = None
        self._asker: socket.socket | None = None
        self._doubted = False
        self._heard = asyncio.Event()
        # When a question of our own came back.
        self.echoed = 0.0

    @property
    def port(self) -> int:
        """The group's port."""
        return self._place.port

    @property
    def interface(self) -> Interface:
        """The interface as it was when the link was opened last.

        Raises:
            ConfigError: It never was, and there is no such interface.
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
            # In an empty context: whoever enters the registry may have a deadline.
            contextvars.Context().run(loop.add_reader, opened, self._read, opened)

    def close(self) -> None:
        """Leave the group."""
        for opened in (self._group, self._asker):
            if opened is not None:
                asyncio.get_running_loop().remove_reader(opened)
                opened.close()
        self._group = self._asker = None

    def ask(self, question: MdnsQuestion) -> float:
        """Ask everybody; returns the moment, to be compared with `echoed`.

        After a question that was not heard the sockets are made anew: the
        interface may have gone and come back.

        Raises:
            RegistryError: It could not be sent.
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
            pass  # lost like any other packet
        except OSError as exc:
            raise self.doubt(exc.strerror) from exc
        return now

    async def heard(self, within: float) -> bool:
        """Whether a question asked before came back in that many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._heard.wait()
        # In a process that is busy, both may come in the same turn of the loop.
        return self._heard.is_set()

    def doubt(self, why: str | None = None) -> RegistryError:
        """What to raise when our own questions are not heard; the next one is asked anew."""
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
            # An asker may be gone; an interface that is gone is noticed by asking.
            log.debug("%s: an answer to %s was not sent: %s", self._where, to or "all", exc)

    def _to_group(self) -> Address:
        interface = self.interface
        if ":" in interface.address:
            return GROUP6, self._place.port, 0, interface.index
        return GROUP4, self._place.port

    def _read(self, opened: socket.socket) -> None:
        for _ in range(_SLICE):
            try:
                data, source = opened.recvfrom(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                log.debug("%s: %s", self._where, exc)  # an asker's port that is closed, say
                return
            if opened is self._group and self._own(source):
                self.echoed = asyncio.get_running_loop().time()
                self._heard.set()
            if not self.interface.reaches(source[0]):
                log.debug("%s: passing over a packet from %s, beyond a router", self._where, source[0])
                continue
            self._hear(data, source, opened is self._group)
            if opened.fileno() < 0:
                return  # closed by what was heard

    def _own(self, source: Address) -> bool:
        return self._asker is not None and self._asker.getsockname()[:2] == source[:2]


def group_socket(interface: Interface, port: int) -> socket.socket:
    """A socket that hears the group on one interface.

    Raises:
        OSError: The interface cannot, or the port is held by a program that does not share it.
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
    # Elsewhere nothing can be sent from a group's address; there a socket hears what it
    # joined itself and nothing else, so that it needs no such bounds.
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
    """Multicast leaves through this interface and is heard by this machine's own sockets too."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    # 255 hops: RFC 6762 11; it leaves no link all the same.
    if ":" in interface.address:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    else:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface.address))
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
