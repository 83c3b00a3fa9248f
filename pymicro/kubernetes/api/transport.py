"""Connections to the API server: TLS as client-go has it, and an HTTP session that knows nothing but us."""

from __future__ import annotations

import asyncio
import base64
import functools
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from pymicro.identity.contexts import as_file
from pymicro.kubernetes.api.login import Login, Tls
from pymicro.kubernetes.api.proxies import without_password

__all__ = ["Transport", "load_aiohttp", "strict_refusal"]

# An event of a large object is longer than aiohttp's own buffer; etcd's limit is 1.5 MiB.
_BUFFER = 2 << 20

# Statuses that send a GET elsewhere, and how many times we go; both as kubectl.
_MOVED = (301, 302, 303, 307, 308)
_REDIRECTS = 10


async def load_aiohttp() -> None:
    """Import aiohttp in a thread: that takes 0.3 s, and calls must go on meanwhile."""
    if not _import.cache_info().currsize:
        await asyncio.to_thread(_import)


@functools.cache
def _import() -> None:
    import aiohttp  # noqa: F401


class Transport:
    """Connections that are secured in one way, and how many requests use them.

    Build it within the event loop, after `load_aiohttp`; `close` it.

    Args:
        tls: How they are secured.
        strict: Whether certificates must be as Python 3.13 wants them, and not only as client-go does.

    Attributes:
        users: Requests that use it now: an old transport lives on until they have ended.

    Raises:
        OSError, ValueError: The certificates cannot be used.
    """

    def __init__(self, tls: Tls, *, strict: bool = False) -> None:
        import aiohttp

        self.tls = tls
        self.users = 0
        self._session = aiohttp.ClientSession(
            # Each watch holds a connection: aiohttp's own limit would let us watch 100 services only.
            connector=aiohttp.TCPConnector(limit=0, ssl=_context(tls, strict)),
            # What an API server or a balancer before it sets would go to the next request.
            cookie_jar=aiohttp.DummyCookieJar(),
            # Neither ~/.netrc nor the environment's proxies: `proxies` knows better which.
            trust_env=False,
            read_bufsize=_BUFFER,
            # asyncio measures our timeouts: aiohttp rounds its own up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )

    async def send(
        self, method: str, url: str, login: Login, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> Any:
        """Send a request and return aiohttp's response as soon as its head is there.

        A redirect is followed within the server, as kubectl does. One to elsewhere is the answer:
        our credentials are for this server.
        """
        proxy = own = None
        if login.proxy:
            proxy = without_password(login.proxy)
            if (given := urlsplit(login.proxy)).username is not None:
                pair = f"{unquote(given.username)}:{unquote(given.password or '')}"
                # aiohttp makes Proxy-Authorization of it, for the proxy alone.
                own = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            # aiohttp would leave out a port that is the scheme's own. Names beyond ASCII it has to spell.
            place = [("Host", parts.netloc)] if parts.netloc.isascii() else []
            # A dot at the end belongs to the DNS.
            name = self.tls.server_name or (parts.hostname or "").rstrip(".")
            response = await self._session.request(
                method,
                url,
                headers=[*place, *headers],
                data=body,
                proxy=proxy,
                proxy_headers=own,
                server_hostname=name if parts.scheme == "https" else None,
                allow_redirects=False,
            )
            onward = urljoin(url, response.headers.get("Location", url))
            if method != "GET" or response.status not in _MOVED or _origin(onward) != _origin(url):
                break
            url = onward
            response.release()
        return response

    async def close(self) -> None:
        """Close the connections; requests that are still reading from them fail."""
        await self._session.close()


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url)[:2]


async def strict_refusal(login: Login, *, timeout: float = 5.0) -> str:
    """Why Python's own rules since 3.13 would refuse the server's certificate; empty if they would not.

    It makes a connection of its own. A server that cannot be asked has been reported already.

    Args:
        login: How the server is asked.
        timeout: Seconds for all of it.
    """
    import aiohttp

    if not login.server.startswith("https://") or not login.tls.verify:
        return ""
    transport = Transport(login.tls, strict=True)
    try:
        async with asyncio.timeout(timeout):
            response = await transport.send("GET", f"{login.server}/version", login, (), None)
            response.close()
    except aiohttp.ClientConnectorCertificateError as exc:
        fault = exc.certificate_error
        return str(getattr(fault, "verify_message", "") or fault)
    except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        return ""
    finally:
        await transport.close()
    return ""


def _context(tls: Tls, strict: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.authority or None)
    # As client-go, for many clusters' certificates need it: Python 3.13 asks for key identifiers
    # and the like, which no other client does. A certificate that is named as trusted is so, also
    # if somebody else has signed it. But a common name alone is no name of a server.
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Not what the system's OpenSSL is set to: some Pythons go by that, and it may be less.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate:
        # Python takes these from files only. On Linux they are on no disk, and nowhere one is left.
        with as_file(tls.certificate) as certificate, as_file(tls.key) as key:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
    return context
