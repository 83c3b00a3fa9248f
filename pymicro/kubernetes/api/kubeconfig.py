"""Credentials from a kubeconfig: contexts, certificates, tokens, credential plug-ins."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.login import Login, library, read_login, signatures
from pymicro.kubernetes.api.plugin import run_plugin

__all__ = ["Context", "Kubeconfig"]

_CERTIFICATES = ("certificate-authority", "client-certificate", "client-key")


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the files that one context names.

    Attributes:
        name: The context's name.
        namespace: Empty if it names none.
        account: The user's name; empty if it names none.
        cluster: The cluster's section, with data in files and absolute paths.
        user: The user's section, likewise.
        base: The folder of the file that holds the user.
    """

    name: str
    namespace: str
    account: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    base: str


class Kubeconfig:
    """The files of a kubeconfig, and one context of them.

    Python's TLS takes certificates from files only. So certificates that stand in the kubeconfig
    as data are written to a folder of its own (0700); `close` removes it.

    Args:
        paths: One path or several, as in KUBECONFIG.
        context: The context's name. If empty, the one that is current at the first read, for
            good: a later `use-context` is not meant for programs that run already.
    """

    def __init__(self, paths: str, context: str) -> None:
        self._paths = tuple(os.path.expanduser(path) for path in paths.split(os.pathsep) if path)
        self._wanted = context
        self._folder: str | None = None
        self._remove: Callable[[], object] = lambda: None

    async def read(self) -> Login:
        """Read the files again, and run the plug-in if the user has one.

        Raises:
            KubeError: They cannot be used now; the text says why.
        """
        try:
            files = signatures(self._paths)
            context = await self.context()
        except ConfigError as exc:
            raise KubeError(str(exc), kind="credentials") from exc
        lifetime = None
        user = dict(context.user)
        if "exec" in user:
            credential = await run_plugin(user.pop("exec"), context.base)
            lifetime = credential.lifetime
            if credential.token:
                user["token"] = credential.token
            if credential.certificate:
                user["client-certificate"] = self._write(credential.certificate.encode())
                user["client-key"] = self._write(credential.key.encode())
        named = (
            user.get("tokenFile"),
            *(given.get(key) for given in (user, context.cluster) for key in _CERTIFICATES),
        )
        files += signatures(path for path in named if isinstance(path, str))
        kubernetes = await library()
        configuration = kubernetes.client.Configuration()
        try:
            loader = kubernetes.config.kube_config.KubeConfigLoader(
                {
                    "current-context": "used",
                    "contexts": [{"name": "used", "context": {"cluster": "used", "user": "used"}}],
                    "clusters": [{"name": "used", "cluster": dict(context.cluster)}],
                    "users": [{"name": "used", "user": user}],
                },
                config_base_path="",
            )
            await loader.load_and_set(configuration)
        except Exception as exc:
            # A malformed file can make the library raise anything.
            raise KubeError(f"{self._name()}, context {context.name!r}: {exc}", kind="credentials") from exc
        return read_login(configuration, files, lifetime)

    def close(self) -> None:
        """Remove the certificates that were written."""
        self._folder = None
        self._remove()

    def _name(self) -> str:
        return f"kubeconfig {os.pathsep.join(self._paths)}"

    async def context(self) -> Context:
        """The context as it stands in the files now.

        Raises:
            ConfigError: The files cannot be used; the text says why.
        """
        there = [path for path, found in signatures(self._paths) if found is not None]
        if not there:
            raise ConfigError(f"{self._name()}: there is no such file")
        kubernetes = await library()
        try:
            # In a thread: YAML is slow, and a large company's kubeconfig is long.
            merger = await asyncio.to_thread(
                kubernetes.config.kube_config.KubeConfigMerger, os.pathsep.join(there)
            )
            context = self._find(merger.config)
        except ConfigError:
            raise
        except Exception as exc:
            # A malformed file can make the library raise anything.
            raise ConfigError(f"{self._name()} cannot be used: {type(exc).__name__}: {exc}") from exc
        self._wanted = context.name
        return context

    def _find(self, config: Any) -> Context:
        """The wanted context in what KubeConfigMerger made of the files."""
        name = self._wanted or config.safe_get("current-context")
        if not name:
            raise ConfigError(f"{self._name()} has no current context: name one with `context=NAME`")
        known = {str(entry["name"]): entry for entry in config.value["contexts"]}
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{self._name()} has no context {name!r}; there are: {listed}")
        context = known[name].value["context"]
        cluster = config["clusters"].get_with_name(context["cluster"])
        base = os.path.dirname(os.path.abspath(cluster.path))
        server = self._plain(cluster.value["cluster"], base)
        if not isinstance(server.get("server"), str):
            raise ConfigError(f"{self._name()}: cluster {context['cluster']!r} names no server")
        account = str(context.get("user") or "")
        found = config["users"].get_with_name(account, safe=True) if account else None
        if account and found is None:
            raise ConfigError(f"{self._name()}: context {name!r} names user {account!r}, who is not in it")
        user = {}
        if found is not None:
            base = os.path.dirname(os.path.abspath(found.path))
            user = self._plain(found.value.get("user") or {}, base)
        return Context(name, str(context.get("namespace") or ""), account, server, user, base)

    def _plain(self, section: Mapping[str, Any], base: str) -> dict[str, Any]:
        """A cluster or user with its data in files and its paths absolute.

        The library would write such files too. But it would keep them until the process ends,
        and give them to others that bring the same data.
        """
        plain = dict(section)
        for key in _CERTIFICATES:
            data = plain.pop(f"{key}-data", None)
            if data:
                try:
                    plain[key] = self._write(base64.b64decode("".join(str(data).split()), validate=True))
                except ValueError as exc:
                    raise ConfigError(f"{self._name()}: {key}-data is no base64: {exc}") from exc
            elif plain.get(key):
                plain[key] = os.path.join(base, os.path.expanduser(str(plain[key])))
        if plain.get("tokenFile"):
            plain["tokenFile"] = os.path.join(base, os.path.expanduser(str(plain["tokenFile"])))
        return plain

    def _write(self, content: bytes) -> str:
        """A file with this content; the same one for the same content."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="pymicro-kube-")
            # Also if nobody calls `close`: a key must not outlive its process.
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = os.path.join(self._folder, hashlib.sha256(content).hexdigest()[:32])
        if not os.path.exists(path):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        return path
