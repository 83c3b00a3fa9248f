"""Credentials from a kubeconfig: certificates, tokens, credential plug-ins, and whom to act as."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, urlsplit

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.kubeconfig_files import Context, Section, read_context
from pymicro.kubernetes.api.login import Login, Tls, certificates, signatures
from pymicro.kubernetes.api.plugin import check_plugin, run_plugin
from pymicro.kubernetes.api.proxies import check_proxy, is_loopback, proxy_for

__all__ = ["Kubeconfig"]

log = logger("pymicro.kube")

# Seconds before its end from which kubectl holds an id-token for one that has run out.
_ID_TOKEN_MARGIN = 10.0

_CERTIFICATES = ("certificate-authority", "client-certificate", "client-key")


class Kubeconfig:
    """The files of a kubeconfig, and one context of them.

    Args:
        paths: One path or several, as in KUBECONFIG.
        context: The context's name. If empty, the one that is current at the first read, for
            good: a later `use-context` is not meant for programs that run already.
        environ: For proxies and plug-ins.
    """

    def __init__(self, paths: str, context: str, environ: Mapping[str, str]) -> None:
        self._paths = tuple(os.path.expanduser(path) for path in paths.split(os.pathsep) if path)
        self._wanted = context
        self._environ = environ

    async def context(self) -> Context:
        """The context as it stands in the files now.

        Raises:
            ConfigError: The files cannot be used; the text says why.
        """
        # In a thread: YAML is slow, and a large company's kubeconfig is long.
        what = f"kubeconfig {shortened(os.pathsep.join(self._paths), 500)}"
        context = await asyncio.to_thread(read_context, self._paths, self._wanted, what)
        self._wanted = context.name
        return context

    async def read(self) -> Login:
        """Read the files again, and run the plug-in if the user has one.

        Raises:
            KubeError: They cannot be used now; the text says why.
        """
        try:
            files = signatures(self._paths)
            context = await self.context()
            named = (given.text(key) for given in (context.cluster, context.user) for key in _CERTIFICATES)
            files += signatures(path for path in (context.user.text("tokenFile"), *named) if path)
            login = replace(await asyncio.to_thread(_login, context, self._environ), files=files)
        except ConfigError as exc:
            raise KubeError(str(exc), kind="credentials") from exc
        # Who has a token does without the plug-in, as with kubectl.
        if "exec" in context.user and not login.authorization and _confidential(login):
            login = await self._plug_in(context, login)
        headers = (login.authorization, *(value for _, value in login.impersonation))
        if any(sign < " " or sign == "\x7f" for value in headers for sign in value):
            raise KubeError(
                f"{context.user.what} has a line break or the like in a token or name, which no header can "
                "have",
                kind="credentials",
            )
        return login

    async def _plug_in(self, context: Context, login: Login) -> Login:
        """`login` with what the user's plug-in gives."""
        credential = await run_plugin(
            context.user.section("exec"), self._environ, lambda: _cluster_info(context, login)
        )
        login = replace(login, lifetime=credential.lifetime)
        if credential.token:
            login = replace(login, authorization=f"Bearer {credential.token}")
        if credential.certificate:
            shown = replace(
                login.tls, certificate=credential.certificate.encode(), key=credential.key.encode()
            )
            login = replace(login, tls=shown)
        return login


def _confidential(login: Login) -> bool:
    """Whether credentials may go to its server: never where others could read them on the way."""
    parts = urlsplit(login.server)
    return parts.scheme == "https" or (is_loopback(parts.hostname or "") and not login.proxy)


def _login(context: Context, environ: Mapping[str, str]) -> Login:
    """What the context says, all but what a plug-in gives."""
    cluster, user = context.cluster, context.user
    given = cluster.text("proxy-url")
    proxy = check_proxy(given, f"{cluster.what}, proxy-url") if given else proxy_for(context.server, environ)
    login = Login(server=context.server, proxy=proxy, impersonation=_impersonation(user))
    if not _confidential(login):
        if any(not key.startswith("as") for key in user.values):
            log.warning("%s is asked in plain HTTP: credentials are not sent there", cluster.what)
        return login
    login = replace(login, authorization=_authorization(user))
    return replace(login, tls=_tls(cluster, user)) if context.server.startswith("https") else login


def _tls(cluster: Section, user: Section) -> Tls:
    authority = cluster.data("certificate-authority")
    insecure = cluster.flag("insecure-skip-tls-verify")
    if authority and insecure:
        raise cluster.error("has both a certificate-authority and insecure-skip-tls-verify; remove one")
    certificate, key = user.data("client-certificate"), user.data("client-key")
    if certificate and not key:
        raise user.error("has a client-certificate without a client-key")
    try:
        trusted = certificates(authority) if authority else ""
    except ValueError as exc:
        raise cluster.error(
            f"has certificate-authority, which cannot be used: {shortened(str(exc), 500)}"
        ) from exc
    return Tls(
        authority=trusted,
        certificate=certificate,
        key=key,
        verify=not insecure,
        server_name=cluster.text("tls-server-name"),
    )


def _authorization(user: Section) -> str:
    """The header's value; empty if the user shows a certificate, has a plug-in, or has nothing."""
    plugin = user.section("exec") if "exec" in user else None
    if plugin is not None:
        check_plugin(plugin)
    if "auth-provider" in user:
        if plugin is not None:
            raise user.error("has both an auth-provider and exec; remove one")
        return f"Bearer {_id_token(user)}"
    name, token = user.text("username"), user.text("token")
    if token and (name or user.text("password")):
        raise user.error("has both a token and a username or password; remove one")
    if "tokenFile" in user:
        try:
            with open(user.text("tokenFile"), encoding="utf-8") as file:
                # It may end in a newline, which no header may.
                token = file.read().strip() or token
        except (OSError, UnicodeError) as exc:
            if not token:
                raise user.error(f"has tokenFile, which cannot be read: {shortened(str(exc), 500)}") from exc
        if not token:
            raise user.error(f"has tokenFile {shortened(user.text('tokenFile'), 500)} with nothing in it")
        if name:
            raise user.error("has both tokenFile and a username; remove one")
    if token:
        return f"Bearer {token}"
    if name:
        pair = f"{name}:{user.text('password')}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    return ""


def _id_token(user: Section) -> str:
    """The token of an `auth-provider`: kubectl knows `oidc` only, since 1.26."""
    provider = user.section("auth-provider")
    kind = provider.text("name")
    if kind != "oidc":
        raise user.error(
            f"has the auth-provider {excerpt(kind)}, which kubectl no longer has either: its cloud has a "
            "credential plug-in instead (exec)"
        )
    token = provider.section("config").text("id-token")
    try:
        claims = token.split(".")[1]
        ends = float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        ends = 0.0
    if ends < time.time() + _ID_TOKEN_MARGIN:
        # Renewing it uses up the refresh token, at many providers. Who does that has to write the
        # next one into the file, as kubectl does, or kubectl is locked out.
        raise user.error(
            "has the auth-provider 'oidc' with an id-token that has run out: kubectl renews it when it is "
            "used, or name the plug-in `kubectl oidc-login` (exec)"
        )
    return token


def _impersonation(user: Section) -> tuple[tuple[str, str], ...]:
    """The headers of Kubernetes' "User impersonation"."""
    name, uid = user.text("as"), user.text("as-uid")
    groups, extra = user.texts("as-groups"), user.section("as-user-extra")
    if not name:
        if uid or groups or extra.values:
            raise user.error("has as-uid, as-groups or as-user-extra, but no `as`")
        return ()
    headers = [("Impersonate-User", name)]
    if uid:
        headers.append(("Impersonate-Uid", uid))
    headers += [("Impersonate-Group", group) for group in groups]
    for key in extra.values:
        # What a header's name cannot have is escaped; its case does not count.
        named = quote(key, safe="!#$&'*+^`|")
        named = "-".join(part.capitalize() for part in f"Impersonate-Extra-{named}".split("-"))
        headers += [(named, value) for value in extra.texts(key)]
    return tuple(headers)


def _cluster_info(context: Context, login: Login) -> dict[str, object]:
    """What `provideClusterInfo` tells a plug-in ("client-go credential plugins")."""
    cluster = context.cluster
    authority = cluster.data("certificate-authority")
    config = None
    for extension in cluster.items("extensions"):
        if isinstance(extension, dict) and extension.get("name") == "client.authentication.k8s.io/exec":
            config = extension.get("extension")
    info = {
        "server": cluster.text("server"),
        "tls-server-name": login.tls.server_name,
        "insecure-skip-tls-verify": not login.tls.verify,
        "certificate-authority-data": base64.b64encode(authority).decode(),
        "proxy-url": cluster.text("proxy-url"),
        "disable-compression": cluster.flag("disable-compression"),
    }
    return {key: value for key, value in info.items() if value} | {"config": config}
