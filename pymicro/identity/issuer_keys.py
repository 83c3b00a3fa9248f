"""The public keys of an issuer: fetched or read beside the calls, kept, and followed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pymicro.base.errors import ConfigError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.identity.files import BadCertificate, read_file
from pymicro.identity.jwt_check import BadKeys, JwtKeys, issuer_in, keys_of
from pymicro.identity.rereading import Rereading

__all__ = ["SERVICE_ACCOUNT", "IssuerKeys", "KeyPlace", "in_cluster"]

log = logger("pymicro.identity")

# Seconds between two fetches. An issuer that changes its keys publishes the new one long before it uses it;
# a key that was taken away is believed this long at most.
PERIOD = 300.0
# Seconds after which a fetch that failed is tried again; doubled each time, up to PERIOD.
AGAIN = 5.0
# Seconds between two fetches that tokens with unknown keys cause: strangers write such tokens.
GAP = 10.0
# Seconds for each step of a fetch, and for all of it.
_STEP, _WHOLE = 5.0, 10.0
# Bytes of a document: large issuers have some 10 KiB.
_MOST = 1 << 20

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the keys are.

    Attributes:
        where: An `https` address, or a path.
        ca: A file with the authorities that are believed of that address; empty for those of the system.
        token: A file with a token to show there; empty for none.
    """

    where: str
    ca: str = ""
    token: str = ""

    @property
    def remote(self) -> bool:
        """Whether they have to be fetched."""
        return "://" in self.where

    def read(self) -> bytes:
        """The document, in bounded time and memory.

        Raises:
            BadKeys: It cannot be had.
        """
        try:
            return _fetched(self) if self.remote else read_file(self.where, "JSON")
        except BadCertificate as exc:
            raise BadKeys(f"{self.where} cannot be fetched: {exc}" if self.remote else str(exc)) from exc


def in_cluster(
    environ: Mapping[str, str] | None = None, folder: str = SERVICE_ACCOUNT
) -> tuple[str, KeyPlace]:
    """The issuer of the pod's own token, and where the API server has the keys.

    Raises:
        ConfigError: This is no pod with a service account.
    """
    given = os.environ if environ is None else environ
    host, port = given.get("KUBERNETES_SERVICE_HOST", ""), given.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError(
            "kubernetes_jwt: this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); elsewhere, "
            "bearer_jwt takes issuer and keys by name"
        )
    own = os.path.join(folder, "token")
    try:
        issuer = issuer_in(read_file(own, "a token").decode("ascii", "replace").strip())
    except BadCertificate as exc:
        raise ConfigError(
            f"kubernetes_jwt: {exc}: the pod needs its service account's token (automountServiceAccountToken)"
        ) from exc
    if not issuer:
        raise ConfigError(f"kubernetes_jwt: {own} holds no token that says who has issued it")
    address = f"[{host}]" if ":" in host else host
    return issuer, KeyPlace(f"https://{address}:{port}/openid/v1/jwks", os.path.join(folder, "ca.crt"), own)


class IssuerKeys:
    """Holds the newest good keys. Where they cannot be had any more, those before stay, and it is told once.

    Args:
        issuer: For the log.
        place: Where they are.
        changed: Called whenever there are others.

    Attributes:
        keys: Those in force; None as long as there were none.
        problem: What is wrong with the place; empty if nothing is.
    """

    def __init__(self, issuer: str, place: KeyPlace, changed: Callable[[], None]) -> None:
        self._issuer = issuer
        self._place = place
        self._changed = changed
        self._rereading: Rereading[JwtKeys] | None = None
        self._looking: asyncio.Future[None] | None = None
        self._asked = float("-inf")
        # Looks that have begun, which the thread counts, those that have ended, and that which is awaited:
        # one that had begun before somebody asked may have read what was there before.
        self._begun = self._ended = self._awaited = 0
        self._failures = 0  # in a row; counted in the thread
        self._quota = LogQuota(log, "more problems with keys of issuers")
        self.keys: JwtKeys | None = None
        self.problem = ""

    async def __aenter__(self) -> Self:
        """Look at the place, and follow it from now on. An issuer that is away keeps nobody from starting.

        Raises:
            ConfigError: A file cannot be used.
        """
        try:
            found = await asyncio.to_thread(self._look)
            assert found is not None
            self._take(found)
        except BadKeys as exc:
            if not self._place.remote:
                raise ConfigError(f"keys of {self._issuer}: {exc}") from exc
            self._say(str(exc))
        self._ended = self._begun
        self._rereading = Rereading(
            self._look,
            self._take,
            self._say,
            name="pymicro keys",
            period=self._pause if self._place.remote else None,
            looked=self._looked,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rereading is not None:
            self._rereading.close()
        self._go_on()

    def renew(self) -> asyncio.Future[None] | None:
        """Look soon, since a token names a key that is not known.

        Returns:
            What is done when somebody has looked; None if that was done just now.
        """
        if self._looking is not None:
            return self._looking
        now = time.monotonic()
        if self._rereading is None or now - self._asked < GAP:
            return None
        self._asked = now
        self._looking = asyncio.get_running_loop().create_future()
        self._awaited = self._begun + 1
        self._rereading.soon()
        return self._looking

    def _pause(self) -> float:
        return min(PERIOD, AGAIN * 2.0 ** min(self._failures - 1, 10)) if self._failures else PERIOD

    def _look(self) -> JwtKeys | None:
        """The keys, if they are others; in a thread."""
        self._begun += 1
        try:
            found = keys_of(self._place.read(), self._place.where)
        except BadKeys:
            self._failures += 1
            raise
        self._failures = 0
        return None if self.keys is not None and found.digest == self.keys.digest else found

    def _take(self, keys: JwtKeys) -> None:
        if self.keys is not None and keys.digest == self.keys.digest:
            return
        first, self.keys, self.problem = self.keys is None, keys, ""
        text = "keys of %s: %d from %s" if first else "new keys of %s: %d from %s"
        log.info(text, shortened(self._issuer), keys.count, shortened(self._place.where))
        self._changed()

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            kept = "its tokens cannot be checked" if self.keys is None else "those before go on"
            self._quota.say(
                logging.ERROR, "keys of %s are not to be had, and %s: %s", self._issuer, kept, problem
            )
        elif self.problem and not problem:
            log.info("keys of %s are to be had again", shortened(self._issuer))
        self.problem = problem

    def _looked(self) -> None:
        self._ended += 1
        if self._ended >= self._awaited:
            self._go_on()

    def _go_on(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None and not looking.done():
            looking.set_result(None)


def _fetched(place: KeyPlace) -> bytes:
    """What is at an address.

    Raises:
        BadKeys: It cannot be fetched.
    """
    # These take 10 ms to import, which a service without tokens does not pay.
    import ssl
    import urllib.request
    from http.client import HTTPException, HTTPSConnection
    from urllib.error import HTTPError, URLError

    end = time.monotonic() + _WHOLE
    late = f"{place.where} has not sent all of it after {_WHOLE:g} s"
    opened: list[HTTPSConnection] = []
    sockets: list[socket.socket] = []

    class Bounded(HTTPSConnection):
        """Can be cut off: a head may come byte by byte, each just before the time for one step is over."""

        def connect(self) -> None:
            opened.append(self)
            super().connect()
            sockets.append(self.sock)
            if time.monotonic() > end:
                raise BadKeys(late)

    def cut() -> None:
        for one in sockets or [connection.sock for connection in opened]:
            with contextlib.suppress(OSError, AttributeError):  # it is closed, or there is none yet
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Bounded, req, context=context)

    class Stay(urllib.request.HTTPRedirectHandler):
        """Goes nowhere else: neither to plain HTTP, nor with the token to another server."""

        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            return None

    headers = {"Accept": "application/json, application/jwk-set+json"}
    if place.token:
        headers["Authorization"] = (
            f"Bearer {read_file(place.token, 'a token').decode('ascii', 'replace').strip()}"
        )
    timer = threading.Timer(_WHOLE, cut)
    timer.daemon = True
    timer.start()
    try:
        # What stands between the certificates of such a file may be in any encoding.
        ca = read_file(place.ca).decode("ascii", "ignore") if place.ca else None
        context = ssl.create_default_context(cadata=ca)
        if place.ca:
            # As pymicro's other connections have it: whoever is in the file is believed, be it no root, and
            # without the key identifiers that Python 3.13 asks for and many clusters' certificates lack.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.hostname_checks_common_name = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        opener = urllib.request.build_opener(Https, Stay)
        with opener.open(urllib.request.Request(place.where, headers=headers), timeout=_STEP) as answer:
            found = b""
            while part := answer.read1(65536):
                found += part
                if len(found) > _MOST:
                    raise BadKeys(f"{place.where} sends more than {_MOST >> 20} MiB: that is no set of keys")
                if time.monotonic() > end:
                    break
        if time.monotonic() > end:  # what was cut off looks like what has ended
            raise BadKeys(late)
    except HTTPError as exc:
        exc.close()
        raise BadKeys(f"{place.where} answers {exc.code} {shortened(str(exc.reason), 80)}") from exc
    except (OSError, HTTPException, ValueError) as exc:
        if time.monotonic() > end:
            raise BadKeys(late) from exc
        if isinstance(exc, URLError):
            raise BadKeys(f"{place.where} cannot be fetched: {shortened(str(exc.reason))}") from exc
        why = shortened(str(exc)) or type(exc).__name__
        with_ca = f" (ca {excerpt(place.ca)})" if place.ca else ""
        raise BadKeys(f"{place.where} cannot be fetched: {why}{with_ca}") from exc
    finally:
        timer.cancel()
    return found
