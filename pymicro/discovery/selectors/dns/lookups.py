"""Addresses of names: of hosts by the system, of SRV records by the DNS itself.

A name has IPv4 and IPv6 addresses, and each family is asked for by a question of its own. Only
so "it has none" and "the name server failed" can be told apart: asked for both, the system says
"no such name" where one question failed and the other one found nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pymicro.base.errors import PluginError, RegistryError
from pymicro.base.printable import shortened
from pymicro.nodes.address import is_ip

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

__all__ = ["Resolve", "ServiceRecords", "SystemHosts", "default_resolver"]

# "There is no such name", and "it has no address (of this family)"; not every platform has all.
_NOTHING = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}

# When one family has addresses, seconds to wait for the other: some name servers never answer
# for IPv6.
_OTHER_FAMILY = 0.5

# A TCP answer has room for 2,000 targets; their questions go out in such portions.
_AT_ONCE = 16

T = TypeVar("T")

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


async def _of_both(v4: Awaitable[list[str]], v6: Awaitable[list[str]]) -> list[str]:
    """The addresses of one family, the one that has more of them.

    One backend with two addresses is not to be two nodes, and what this machine has no route to
    is no node at all. On a tie it is IPv4, which no machine has half-configured.

    Raises:
        Exception: Neither has any, and one question failed, in this way.
    """
    questions = [asyncio.ensure_future(v4), asyncio.ensure_future(v6)]
    try:
        await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
        some = any(one.done() and not one.exception() and one.result() for one in questions)
        await asyncio.wait(questions, timeout=_OTHER_FAMILY if some else None)
    finally:
        for question in questions:
            if not question.cancel() and not question.cancelled():
                question.exception()  # seen, also where nobody waits for it any more
    answered = [one for one in questions if one.done() and not one.cancelled()]
    families = [one.result() for one in answered if one.exception() is None]
    if found := [family for family in families if family]:
        routed = [[ip for ip in family if _has_route(ip)] for family in found]
        return max([family for family in routed if family] or found, key=len)
    for one in answered:
        if failure := one.exception():
            raise failure
    return []


def _has_route(ip: str) -> bool:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((ip, 9))  # nothing is sent: the kernel only looks for a route
    except OSError:
        return False
    return True


class SystemHosts:
    """Addresses of hosts as the system resolves names: its files, its search list, the DNS.

    Each question has a thread of its own. A mute name server holds it for half a minute; a
    thread of asyncio's would be missing to everybody else in the process. A question that is
    still under way is not asked a second time.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of `host`; none if it does not exist.

        Raises:
            OSError: The resolver could not be asked, or had no answer.
            RuntimeError: There can be no more threads.
        """
        if is_ip(host):
            return [host]
        return await _of_both(self._ask(host, socket.AF_INET), self._ask(host, socket.AF_INET6))

    async def _ask(self, host: str, family: socket.AddressFamily) -> list[str]:
        asked = self._asked.get((host, family))
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = loop.create_future()
            threading.Thread(
                target=_ask_system, args=(loop, asked, host, family), name=f"pymicro dns {host}", daemon=True
            ).start()
            self._asked[host, family] = asked
            asked.add_done_callback(lambda done: (self._asked.pop((host, family)), done.exception()))
        return await asyncio.shield(asked)


def _ask_system(
    loop: asyncio.AbstractEventLoop,
    asked: asyncio.Future[list[str]],
    host: str,
    family: socket.AddressFamily,
) -> None:
    answer: Callable[[], None]
    try:
        found = socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        answer = _set(asked.set_result, []) if exc.errno in _NOTHING else _set(asked.set_exception, exc)
    except Exception as exc:
        answer = _set(asked.set_exception, exc)
    else:
        answer = _set(asked.set_result, list(dict.fromkeys(str(address[0]) for *_, address in found)))
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(answer)


def _set(put: Callable[[Any], None], value: Any) -> Callable[[], None]:
    return lambda: put(value)


async def _elsewhere(work: Callable[[], Coroutine[Any, Any, T]], name: str) -> T:
    """The result of `work`, in an event loop and a thread of its own; cancelled with the caller.

    Raises:
        RuntimeError: There can be no more threads.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    begun: list[Callable[[], object]] = []

    async def main() -> T:
        task, own = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        begun.append(lambda: own.call_soon_threadsafe(task.cancel))
        if done.cancelled():
            raise asyncio.CancelledError
        return await work()

    def run() -> None:
        answer: Callable[[], None]
        try:
            answer = _set(done.set_result, asyncio.run(main()))
        except asyncio.CancelledError:
            return  # nobody waits any more
        except Exception as exc:
            answer = _set(done.set_exception, exc)
        with contextlib.suppress(RuntimeError):  # the loop is closed, likewise
            loop.call_soon_threadsafe(lambda: None if done.done() else answer())

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return await done
    finally:
        if done.cancelled():
            for cancel in begun:
                with contextlib.suppress(RuntimeError):  # it has just ended
                    cancel()


def default_resolver() -> Resolver:
    """A resolver of dnspython's, configured as the system is.

    Raises:
        PluginError: dnspython is not installed.
        RegistryError: The system names no DNS server.
    """
    try:
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
    except ImportError as exc:
        raise PluginError(
            "selector dns needs dnspython to look up SRV records: pip install 'pymicro-grpc[dns]' "
            "(a service named host:port needs none)"
        ) from exc
    try:
        return Resolver()
    except DNSException as exc:
        raise RegistryError(f"selector dns: {shortened(str(exc), 500)}") from exc


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """What the SRV records of a name lead to.

    Attributes:
        addresses: IP and port of each node.
        ttl: Seconds for which the answers are good; None if there is no record.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    ttl: float | None = None

    @classmethod
    async def ask(cls, name: str, make_resolver: Callable[[], Resolver]) -> ServiceRecords:
        """`look_up` in a thread with an event loop of its own.

        dnspython takes 70 ms for an answer of 1,232 bytes whose names are as long as names may be,
        and 5 s for one of 64 KB: whoever writes the zone would hold up every call.
        """
        return await _elsewhere(lambda: cls.look_up(name, make_resolver), f"pymicro dns {name}")

    @classmethod
    async def look_up(cls, name: str, make_resolver: Callable[[], Resolver]) -> ServiceRecords:
        """Look up a name and the targets of its records; only records of the best priority count.

        Names go out as they are, with a final dot: the system's search list would let somebody
        else's domain answer.

        Raises:
            RegistryError: The name server could not be asked, or did not answer.
            PluginError: dnspython is not installed.
        """
        # Its error says what to install; those of the imports below would not.
        resolver = make_resolver()
        import dns.exception
        import dns.name
        import dns.resolver

        ttls: list[float] = []

        async def ask(asked: str, kind: str) -> list[Any]:
            try:
                answer = await resolver.resolve(asked, kind, search=False)
            except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                return []
            except dns.exception.DNSException as exc:
                raise RegistryError(
                    f"the DNS cannot be asked for {kind} {asked[:-1]}: {shortened(str(exc), 500)}"
                ) from exc
            if answer.rrset is not None:
                ttls.append(float(answer.rrset.ttl))
            return list(answer)

        async def ips(target: str, kind: str) -> list[str]:
            return [str(record.address) for record in await ask(target, kind)]

        turn = asyncio.Semaphore(_AT_ONCE)

        async def addresses(target: str) -> list[str]:
            async with turn:
                return await _of_both(ips(target, "A"), ips(target, "AAAA"))

        records = await ask(name.removesuffix(".") + ".", "SRV")
        best = min((record.priority for record in records), default=0)
        # RFC 2782: the target "." says that there is no such service.
        chosen = {
            (record.target.to_text(), record.port): None
            for record in records
            if record.priority == best and record.target != dns.name.root and record.port
        }
        targets = list(dict.fromkeys(target for target, _ in chosen))
        # Exceptions are results here: gather would raise the first and leave the rest running.
        answers = await asyncio.gather(*map(addresses, targets), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        found = dict(zip(targets, answers, strict=True))
        nodes = tuple((str(ip), port) for target, port in chosen for ip in found[target])
        return cls(nodes, min(ttls, default=None))
