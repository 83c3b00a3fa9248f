"""Requests to the API server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from pymicro._version import __version__
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.kubernetes.api.credentials import Cluster
from pymicro.kubernetes.api.errors import KubeError, tls_hint
from pymicro.kubernetes.api.lines import Lines
from pymicro.kubernetes.api.login import Login, Tls
from pymicro.kubernetes.api.resource import Asked
from pymicro.kubernetes.api.status import refusal
from pymicro.kubernetes.api.transport import Transport, load_aiohttp

__all__ = ["KubeClient"]

log = logger("pymicro.kube")

# A page of 500 objects of etcd's largest size would be more than this; real ones are 2 MB.
_LARGEST_ANSWER = 256 << 20
# How much of a refusal we read; a Status is a few hundred bytes.
_LARGEST_REFUSAL = 64 << 10


class KubeClient:
    """Asks the API server. `async with` it to have its connections closed at the end.

    The first request opens the connections. You may enter the client again after you left it.

    Args:
        cluster: The cluster, or a way to find it at the first request (`find_cluster`).
    """

    def __init__(self, cluster: Callable[[], Awaitable[Cluster]] | Cluster) -> None:
        self._find = None if isinstance(cluster, Cluster) else cluster
        self._cluster = cluster if isinstance(cluster, Cluster) else None
        self._finding = asyncio.Lock()
        self._transport: Transport | None = None
        self._transports: set[Transport] = set()
        self._complaint = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections; requests that are still reading from them fail."""
        self._transport = None
        transports, self._transports = self._transports, set()
        for transport in transports:
            await transport.close()
        if self._find is not None:
            self._cluster = None

    @property
    def cluster(self) -> Cluster:
        """The cluster that this client asks.

        Raises:
            RuntimeError: Nobody has looked for it yet (see `find`).
        """
        if self._cluster is None:
            raise RuntimeError("the Kubernetes API has not been asked yet")
        return self._cluster

    def describe(self) -> str:
        """The server, for messages; never fails."""
        return "the Kubernetes API" if self._cluster is None else self._cluster.describe()

    async def find(self) -> Cluster:
        """The cluster; looks for it if nobody has yet, without asking the server.

        Raises:
            ConfigError: There is none to be found here.
        """
        if self._cluster is None:
            async with self._finding:
                if self._cluster is None:
                    assert self._find is not None
                    self._cluster = await self._find()
        return self._cluster

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> Any:
        """Ask once and parse the answer.

        After a 401 it reads the credentials again and tries once more.

        Args:
            method: `GET`, `POST`, `PATCH` …
            path: From the root: `/api/v1/namespaces/shop/pods`.
            params: The query.
            body: Sent as JSON.
            content_type: The type of the body; a patch is `application/strategic-merge-patch+json`.
            timeout: Seconds for everything but a credential plug-in's run.

        Raises:
            KubeError: The server refused, did not answer in time, or did not answer in JSON.
            ConfigError: There is no server to be found.
        """
        answer = await self.read(
            method, path, params=params, body=body, content_type=content_type, timeout=timeout
        )
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as exc:
            what = self._say(Asked.of(method, path, params or {}))
            raise KubeError(f"{what}: the answer is no JSON: {exc}", kind="malformed") from exc

    async def read(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> bytes:
        """As `request`, without parsing: for answers too long to parse in one go."""
        asked = Asked.of(method, path, params or {})
        parts = []
        size = 0
        async with self._answer(asked, method, params or {}, body, content_type, timeout) as (
            response,
            deadline,
        ):
            with self._faults(asked, timeout):
                async with asyncio.timeout_at(deadline):
                    while chunk := await response.content.readany():
                        parts.append(chunk)
                        size += len(chunk)
                        if size > _LARGEST_ANSWER:
                            what = f"{self._say(asked)}: the answer is longer than {_LARGEST_ANSWER} bytes"
                            raise KubeError(what, kind="malformed")
        return b"".join(parts)

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, connect_timeout: float, idle_timeout: float
    ) -> AsyncGenerator[Lines, None]:
        """Read an answer line by line, for as long as it comes: `async with … as lines`.

        After a 401 it reads the credentials again and tries once more.

        Args:
            path: From the root.
            params: The query.
            connect_timeout: Seconds until the head of the answer has arrived.
            idle_timeout: Seconds without a byte after which the stream is dead, whatever TCP says.

        Raises:
            KubeError: On entering, the server refused or did not answer; while reading, the
                stream was cut or is idle.
            ConfigError: There is no server to be found.
        """
        asked = Asked.of("GET", path, params)
        async with self._answer(asked, "GET", params, None, "", connect_timeout) as (response, _):

            async def read() -> bytes:
                with self._faults(asked, idle_timeout):
                    return bytes(await response.content.readany())

            yield Lines(read, what=self._say(asked), idle_timeout=idle_timeout)

    @asynccontextmanager
    async def _answer(
        self,
        asked: Asked,
        method: str,
        params: Mapping[str, str],
        body: object | None,
        content_type: str,
        timeout: float,
    ) -> AsyncGenerator[tuple[Any, float], None]:
        """An answer that is no refusal, and the moment (of the loop's clock) by which to have read it."""
        sent = None
        headers = [
            ("Accept", "application/json"),
            # Unpacking would block the loop, only to save bytes within a cluster.
            ("Accept-Encoding", "identity"),
            ("User-Agent", f"pymicro/{__version__}"),
        ]
        if body is not None:
            sent = json.dumps(body).encode()
            headers.append(("Content-Type", content_type))
        query = f"?{urlencode(params)}" if params else ""
        refused: Login | None = None
        while True:
            login = await (await self.find()).login(refused)
            own = list(login.impersonation)
            if login.authorization:
                own.append(("Authorization", login.authorization))
            transport = await self._connect(login)
            transport.users += 1
            deadline = asyncio.get_running_loop().time() + timeout
            response: Any = None
            try:
                with self._faults(asked, timeout):
                    async with asyncio.timeout_at(deadline):
                        url = f"{login.server}{asked.path}{query}"
                        response = await transport.send(method, url, login, headers + own, sent)
                if response.status == 401 and refused is None:
                    # Most likely the token was replaced after we read it.
                    refused = login
                    continue
                if not 200 <= response.status < 300:
                    raise await self._refusal(asked, response, deadline, login)
                yield response, deadline
                return
            finally:
                if response is not None:
                    _abort(response)
                await self._leave(transport)

    async def _connect(self, login: Login) -> Transport:
        """The transport for these certificates; one for other certificates closes after its last request."""
        await load_aiohttp()
        old = self._transport
        if old is not None and old.tls == login.tls:
            self._complaint = ""
            return old
        try:
            transport = Transport(login.tls)
        except (OSError, ValueError) as exc:  # ssl's errors are OSErrors
            what = f"the certificates for {login.server} cannot be used: {shortened(str(exc))}"
            if old is None or not _same_server(old.tls, login.tls):
                raise KubeError(what, kind="credentials") from exc
            # Somebody may be replacing certificate and key just now, one after the other.
            if what != self._complaint:
                log.warning("%s; going on with those before", what)
            self._complaint = what
            return old
        self._complaint = ""
        self._transport = transport
        self._transports.add(transport)
        if old is not None and not old.users:
            await self._close(old)
        return transport

    async def _leave(self, transport: Transport) -> None:
        transport.users -= 1
        if not transport.users and transport is not self._transport:
            await self._close(transport)

    async def _close(self, transport: Transport) -> None:
        self._transports.discard(transport)
        await transport.close()

    @contextmanager
    def _faults(self, asked: Asked, timeout: float) -> Iterator[None]:
        """Turn everything that happens to a request into a KubeError, even what nobody has thought of."""
        import aiohttp

        try:
            yield
        except KubeError:
            raise
        except TimeoutError as exc:
            what = f"{self._say(asked)}: no answer within {timeout:g} s"
            raise KubeError(what, kind="timeout") from exc
        except aiohttp.ClientHttpProxyError as exc:
            what = f"{self._say(asked)}: the proxy answered {exc.status} {shortened(exc.message)}".rstrip()
            raise KubeError(what, kind="proxy") from exc
        except aiohttp.ClientProxyConnectionError as exc:
            what = f"{self._say(asked)}: the proxy cannot be reached: {exc.os_error}"
            raise KubeError(what, kind="proxy") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            # aiohttp raises ValueError for a URL or header that it cannot send.
            kind = "tls" if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)) else "connection"
            text = shortened(str(exc), 500) or type(exc).__name__
            raise KubeError(f"{self._say(asked)}: {text}{tls_hint(text)}", kind=kind) from exc
        except Exception as exc:
            # A name look-up that gets no thread is a RuntimeError.
            raise KubeError(f"{self._say(asked)}: {excerpt(exc, 1000)}", kind="unexpected") from exc

    def _say(self, asked: Asked) -> str:
        return f"cannot {asked} at {self.cluster.way}"

    async def _refusal(self, asked: Asked, response: Any, deadline: float, login: Login) -> KubeError:
        """The error for an answer that refuses."""
        if 300 <= response.status < 400:
            place = urlsplit(response.headers.get("Location", "")).netloc.rpartition("@")[2]
            what = f"{self._say(asked)}: it answered {response.status}, a redirect to {excerpt(place)}, "
            return KubeError(f"{what}which is not followed", status=response.status)
        body = b""
        # The refusal itself is known already; its reasons may come late or broken.
        with suppress(KubeError), self._faults(asked, 0):
            async with asyncio.timeout_at(deadline):
                while len(body) < _LARGEST_REFUSAL and (chunk := await response.content.readany()):
                    body += chunk
        try:
            status = json.loads(body)
        except (ValueError, RecursionError):
            status = None
        after = response.headers.get("Retry-After", "")
        return refusal(
            asked,
            status if isinstance(status, dict) else {},
            server=self.cluster.server,
            account=self.cluster.account,
            code=response.status,
            retry_after=float(after) if after.isascii() and after.isdigit() else None,
            shown=_why_not_now(login.tls.certificate) if response.status == 401 else "",
        )


def _same_server(one: Tls, other: Tls) -> bool:
    """Whether both believe the same servers, and differ by what they show at most."""
    return replace(one, certificate=other.certificate, key=other.key) == other


def _why_not_now(certificate: bytes) -> str:
    """Why no server accepts this client certificate, as far as its dates say; empty if they say nothing."""
    # It comes with the extra `tls`, which a client of the API does not need.
    if not certificate or not find_spec("cryptography"):
        return ""
    from pymicro.identity.checking import why_not_now

    return why_not_now(certificate, datetime.now(UTC))


def _abort(response: Any) -> None:
    """Let go of an answer, at once."""
    if response.connection is not None and response.connection.transport is not None:
        # The answer was not read to its end. Closing it over TLS would wait for a server
        # that may be gone, even after this client has ended.
        response.connection.transport.abort()
    response.close()
