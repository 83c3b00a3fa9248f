"""Where the API server is and who we are: a pod's service account, a kubeconfig, or a bare URL."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.kubeconfig import Kubeconfig
from pymicro.kubernetes.api.login import Login, LoginSource, Signature, Tls, certificates, signatures
from pymicro.kubernetes.api.proxies import proxy_for, without_password
from pymicro.kubernetes.api.resource import check_namespace
from pymicro.settings.config import in_pod

__all__ = ["Cluster", "find_cluster", "own_namespace"]

log = logger("pymicro.kube")

# The names of service accounts begin with this.
_ACCOUNT = "system:serviceaccount:"

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

# Seconds between two looks at the files: a stat is cheap, but one for each request is waste.
_LOOK = 1.0

# Seconds for which a failure to read the credentials stands, and those that were just read anew after
# a refusal: each watch would run a credential plug-in again, at each of its tries.
_SHARED = 5.0


class Cluster:
    """An API server and an account on it.

    It reads the credentials when they are first needed. It reads them again when a file they
    came from has changed (it looks at most once a second), when they run out, and when the
    server refused them.

    Attributes:
        server: Its URL, such as `https://10.96.0.1:443`.
        proxy: The URL of the proxy to it, once the credentials were read; empty for none.
        namespace: The namespace we belong to.
        account: `system:serviceaccount:<namespace>:<name>` or the kubeconfig's user,
            for messages; empty if there are no credentials.
        in_pod: Whether we ask from within a pod, where a NetworkPolicy may hold.

    Raises:
        ConfigError: No namespace can be called so.
    """

    def __init__(
        self,
        source: LoginSource,
        *,
        server: str,
        namespace: str,
        account: str,
        origin: str,
        in_pod: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_pod = in_pod
        self.server = server
        self.proxy = ""
        self.namespace = check_namespace(namespace, "POD_NAMESPACE, or the namespace of these credentials")
        self.account = account
        self._source = source
        self._origin = origin
        self._clock = clock
        self._login: Login | None = None
        self._read_at = 0.0
        self._looked = 0.0
        self._complaint = ""
        self._failure: KubeError | None = None
        self._failed_at = 0.0
        self._failed_on: tuple[Signature, ...] = ()
        self._renewed: Login | None = None
        self._lock = asyncio.Lock()

    @property
    def way(self) -> str:
        """`https://api.example:6443 through the proxy http://proxy:3128`, for messages."""
        return self.server + (f" through the proxy {without_password(self.proxy)}" if self.proxy else "")

    def describe(self) -> str:
        """`https://10.96.0.1:443 (service account shop/greeter)`."""
        return f"{self.server} ({self._origin})"

    async def login(self, refused: Login | None = None) -> Login:
        """The credentials to use now.

        Who asks within five seconds of a failure, or with credentials that were read after a
        refusal and are refused again, gets the same once more, unless a file has changed.

        Args:
            refused: The credentials that the server did not accept (401); if they are still
                the known ones, everything is read again.

        Raises:
            KubeError: There are none; the text says why.
        """
        async with self._lock:
            known = self._login
            usable = known is not None and known is not refused and not self._ran_out(known)
            if known is not None:
                if usable and not self._stale(known):
                    return known
                if known is self._renewed and self._just_read(known):
                    return known
            if self._failure is None or not self._just_failed(known):
                try:
                    return await self._read(refused)
                except KubeError as exc:
                    self._failure, self._failed_at = exc, self._clock()
                    self._failed_on = self._state(known)
            if known is None or not usable:
                raise KubeError(str(self._failure), kind=self._failure.kind) from self._failure
            # Somebody may be replacing a file just now: the old credentials may do until the server
            # refuses them.
            if str(self._failure) != self._complaint:
                log.warning("%s; going on with what was read before", self._failure)
            self._complaint = str(self._failure)
            return known

    async def _read(self, refused: Login | None) -> Login:
        self._login = login = await self._source.read()
        self._failure, self._complaint = None, ""
        self._renewed = login if refused is not None else None
        self._read_at = self._looked = self._clock()
        self.server, self.proxy = login.server, login.proxy
        return login

    def _ran_out(self, known: Login) -> bool:
        return known.lifetime is not None and self._clock() - self._read_at >= known.lifetime

    def _stale(self, known: Login) -> bool:
        now = self._clock()
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        return self._changed(known)

    def _just_read(self, known: Login) -> bool:
        return self._clock() - self._read_at < _SHARED and not self._changed(known)

    def _just_failed(self, known: Login | None) -> bool:
        return self._clock() - self._failed_at < _SHARED and self._state(known) == self._failed_on

    def _changed(self, known: Login) -> bool:
        return self._state(known) != known.files

    @staticmethod
    def _state(known: Login | None) -> tuple[Signature, ...]:
        """The present state of the files that it was read from."""
        return signatures(path for path, _ in known.files) if known is not None else ()


class _ServiceAccount:
    """The files Kubernetes puts into a pod. The token in it changes every hour or so."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._token = os.path.join(folder, "token")
        self._ca = os.path.join(folder, "ca.crt")

    async def read(self) -> Login:
        # In a thread: to import the library takes 0.4 s, and calls must go on meanwhile.
        return await asyncio.to_thread(self._read)

    def _read(self) -> Login:
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import ConfigException
        from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader

        files = signatures((self._token, self._ca))
        configuration = Configuration()
        loader = InClusterConfigLoader(
            token_filename=self._token,
            cert_filename=self._ca,
            # We decide when to read it again: the library's once a minute is too late after a 401.
            try_refresh_token=False,
            environ=dict(self._environ),
        )
        try:
            loader.load_and_set(configuration)
            with open(self._ca, "rb") as file:
                authority = certificates(file.read())
        except (ConfigException, OSError, ValueError) as exc:
            folder = os.path.dirname(self._token)
            raise KubeError(
                f"the service account in {folder} cannot be read: {exc}", kind="credentials"
            ) from exc
        # No proxy of the environment: it is meant for the world outside.
        return Login(
            server=str(configuration.host),
            # A token may end in a newline, which no header may.
            authorization=str(configuration.api_key["BearerToken"]).strip(),
            tls=Tls(authority=authority),
            files=files,
        )


class _Address:
    """A URL and nothing else: `kubectl proxy`, or a server in a test."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._login = Login(server=url, proxy=proxy_for(url, environ))

    async def read(self) -> Login:
        return self._login


async def find_cluster(
    address: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    folder: str = SERVICE_ACCOUNT,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Cluster:
    """The cluster that `address` (the setting `registry_address`) or the surroundings name.

    Args:
        address: Empty means the service account in a pod, unless KUBECONFIG is set, and
            the kubeconfig elsewhere (KUBECONFIG, `~/.kube/config`). One URL means that
            server without credentials. Or `kubeconfig=PATH`, `context=NAME` or both.
        environ: The environment.
        folder: The folder into which Kubernetes puts the service account.
        clock: Seconds of a monotonic clock.

    Raises:
        ConfigError: There is nothing to use, or it can never work.
    """
    environ = os.environ if environ is None else environ
    given = _parse(address)
    if "url" in given:
        url = given["url"]
        namespace = environ.get("POD_NAMESPACE") or "default"
        return Cluster(
            _Address(url, environ),
            server=url,
            namespace=namespace,
            account="",
            origin="without credentials",
            in_pod=in_pod(environ),
            clock=clock,
        )
    if in_pod(environ) and not given and not environ.get("KUBECONFIG"):
        return _in_pod(folder, environ, clock)
    return await _outside(given, environ, clock)


def _parse(address: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for entry in address:
        key, equals, value = entry.partition("=")
        if entry.startswith(("http://", "https://")):
            key, value = "url", entry.rstrip("/")
            _check_url(value)
        elif not equals or not value or key not in ("kubeconfig", "context"):
            raise ConfigError(
                f"registry_address: {excerpt(entry)} is no address of the Kubernetes API; it takes "
                "http(s)://host:port, kubeconfig=PATH and context=NAME"
            )
        if key in given:
            raise ConfigError(f"registry_address: {key} is given twice")
        given[key] = value
    if "url" in given and len(given) > 1:
        raise ConfigError("registry_address: give a URL, or kubeconfig= and context=, not both")
    return given


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"registry_address: {excerpt(url)} is no URL of a server")
    if parts.username is not None:
        # Not shown: it would go into every message, and from there into logs.
        raise ConfigError("registry_address: a URL with a password in it; use a kubeconfig for credentials")


def own_namespace(environ: Mapping[str, str] | None = None, folder: str = SERVICE_ACCOUNT) -> str:
    """The namespace of this pod, as far as it is told without asking anybody; else empty."""
    environ = os.environ if environ is None else environ
    try:
        return environ.get("POD_NAMESPACE") or _read_file(folder, "namespace")
    except (OSError, ValueError):
        return ""


def _in_pod(folder: str, environ: Mapping[str, str], clock: Callable[[], float]) -> Cluster:
    port = environ.get("KUBERNETES_SERVICE_PORT")
    if not port:
        raise ConfigError("KUBERNETES_SERVICE_HOST is set and KUBERNETES_SERVICE_PORT is not: is this a pod?")
    try:
        token = _read_file(folder, "token")
        own = _read_file(folder, "namespace") if os.path.exists(os.path.join(folder, "namespace")) else ""
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"this pod has no service account to ask the Kubernetes API with: {exc} "
            "(automountServiceAccountToken: false?)"
        ) from exc
    host = environ["KUBERNETES_SERVICE_HOST"]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    account = _subject(token)
    name = account.removeprefix(_ACCOUNT).replace(":", "/")
    return Cluster(
        _ServiceAccount(folder, environ),
        server=server,
        namespace=environ.get("POD_NAMESPACE") or own or "default",
        account=account or f"the service account in {folder}",
        origin=f"service account {name}" if account else "service account",
        in_pod=True,
        clock=clock,
    )


async def _outside(
    given: Mapping[str, str], environ: Mapping[str, str], clock: Callable[[], float]
) -> Cluster:
    paths = given.get("kubeconfig") or environ.get("KUBECONFIG") or _default_kubeconfig(environ)
    if not paths:
        raise ConfigError(
            "no Kubernetes API server is known: this is no pod (KUBERNETES_SERVICE_HOST is not set) and "
            "there is no ~/.kube/config; set KUBECONFIG, or registry_address to kubeconfig=PATH or to a URL"
        )
    source = Kubeconfig(paths, given.get("context", ""), environ)
    context = await source.context()
    account, acting = shortened(context.account), context.user.text("as")
    return Cluster(
        source,
        server=context.server,
        namespace=environ.get("POD_NAMESPACE") or context.namespace or "default",
        # Rights are asked of the one that is acted as.
        account=f"{shortened(acting)} (as which {account} acts)" if acting else account,
        origin=f"kubeconfig {shortened(paths)}, context {shortened(context.name)}",
        in_pod=in_pod(environ),
        clock=clock,
    )


def _default_kubeconfig(environ: Mapping[str, str]) -> str:
    path = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".kube", "config")
    return path if os.path.exists(path) else ""


def _read_file(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read().strip()


def _subject(token: str) -> str:
    """The account that the token names, unchecked, so for messages only; empty if it names none."""
    try:
        claims = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    except (IndexError, KeyError, TypeError, ValueError):
        return ""
    return subject if isinstance(subject, str) and subject.startswith(_ACCOUNT) else ""
