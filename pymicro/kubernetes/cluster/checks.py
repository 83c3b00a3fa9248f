"""Whether a cluster can be asked at all: the first lines of `pymicro doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from pymicro.base.durations import format_duration
from pymicro.base.errors import ConfigError
from pymicro.base.findings import Finding, Level
from pymicro.base.printable import shortened
from pymicro.kubernetes.api.access import may
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.login import Login
from pymicro.kubernetes.api.proxies import proxy_for, without_password
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.resource import Resource, rule_for
from pymicro.kubernetes.api.timing import ReflectorTiming
from pymicro.kubernetes.api.transport import strict_refusal

__all__ = ["check_access", "check_cluster", "check_watch", "place"]

# What each header of an impersonation needs the verb `impersonate` for (Kubernetes: "User
# impersonation"): the API group and the resource.
_IMPERSONATED = {
    "Impersonate-User": ("", "users"),
    "Impersonate-Group": ("", "groups"),
    "Impersonate-Uid": ("authentication.k8s.io", "uids"),
}
_EXTRA = "Impersonate-Extra-"
_ACCOUNT = "system:serviceaccount:"


def place(namespace: str | None) -> str:
    """`in namespace shop`."""
    return "in all namespaces" if namespace is None else f"in namespace {namespace}"


async def check_cluster(client: KubeClient, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Check credentials, then the API server; if it cannot be asked, the last finding is a problem."""
    try:
        cluster = await client.find()
        login = await cluster.login()
    except (ConfigError, KubeError) as exc:
        yield Finding("credentials", "problem", str(exc))
        return
    account = f", account {cluster.account}" if cluster.account else ""
    yield Finding("credentials", "ok", f"{cluster.describe()}{account}")
    if login.proxy:
        yield Finding("proxy", "note", f"{login.server} is asked through {_proxy(login, environ)}")
    try:
        answer = await client.request("GET", "/version")
    except KubeError as exc:
        if _may_not_impersonate(exc, login):
            text = f"{cluster.server} does not let this account act as another one: {_said(exc)}"
            yield Finding("as", "problem", text, _rule_to_impersonate(login))
            return
        if exc.status == 403:  # the server answers, but tells this account nothing more
            yield Finding("API server", "ok", f"{cluster.way} answers")
        else:
            yield Finding("API server", "problem", str(exc), _mending(exc, cluster.in_pod))
            return
    else:
        version = answer.get("gitVersion") if isinstance(answer, dict) else None
        yield Finding(
            "API server", "ok", f"{cluster.way} answers{f' ({shortened(str(version))})' if version else ''}"
        )
    if login.server.startswith("https://") and not login.tls.verify:
        yield Finding(
            "certificate",
            "note",
            f"that of {cluster.server} is not checked (insecure-skip-tls-verify): whoever is on the way can "
            "answer in its place, and is told the credentials",
            "name its authority in the kubeconfig (certificate-authority) instead",
        )
    if why := await strict_refusal(login):
        yield Finding(
            "certificate",
            "note",
            f"that of {cluster.server} would be refused by Python's own rules since 3.13: {why}; pymicro "
            "takes it, as kubectl does, and other programs in Python may not",
            "give the API server a certificate with all that RFC 5280 asks for: key identifiers, key usage, "
            "critical basic constraints of its authority",
        )


def _proxy(login: Login, environ: Mapping[str, str]) -> str:
    """The proxy, and who names it."""
    try:
        by_environment = proxy_for(login.server, environ) == login.proxy
    except ConfigError:
        by_environment = False  # the kubeconfig's own goes first
    scheme = login.server.partition(":")[0].upper()
    named = f"{scheme}_PROXY" if by_environment else "`proxy-url` of the kubeconfig"
    return f"the proxy {without_password(login.proxy)}, which {named} names"


def _said(error: KubeError) -> str:
    """The server's own words."""
    return str(error).partition(" it answered ")[2] or str(error)


def _may_not_impersonate(error: KubeError, login: Login) -> bool:
    # The server refuses such a request before it looks at what is asked.
    return error.status == 403 and bool(login.impersonation) and "cannot impersonate" in str(error)


def _rule_to_impersonate(login: Login) -> str:
    """The rules of a ClusterRole that allow all that the kubeconfig says of whom to act as."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for header, value in login.impersonation:
        group, resource = _IMPERSONATED.get(header, ("authentication.k8s.io", ""))
        name = value
        if header.startswith(_EXTRA):
            resource = f"userextras/{header.removeprefix(_EXTRA).lower()}"
        elif resource == "users" and value.startswith(_ACCOUNT):
            resource, name = "serviceaccounts", value.rpartition(":")[2]
        wanted.setdefault((group, resource), []).append(name)
    lines = ["# under `rules` of a ClusterRole (with a ClusterRoleBinding), bound to the account itself"]
    for (group, resource), names in wanted.items():
        listed = ", ".join(f'"{name}"' for name in names)
        lines += [
            f'- apiGroups: ["{group}"]',
            f'  resources: ["{resource}"]',
            f"  resourceNames: [{listed}]",
            '  verbs: ["impersonate"]',
        ]
    return "\n".join(lines)


def _mending(error: KubeError, in_pod: bool) -> str:
    if error.status == 401:
        return "the credentials have run out or belong to another cluster: get new ones"
    if error.kind in ("connection", "timeout"):
        # What a NetworkPolicy drops is sent by pods.
        policy = " and a NetworkPolicy lets this pod reach it" if in_pod else ""
        return f"see whether the address is right{policy}"
    if error.kind == "tls":
        return "see whether the credentials are this cluster's: it shows a certificate that they do not trust"
    if error.kind == "proxy":
        return "see whether the proxy is right (`proxy-url`, HTTPS_PROXY), or name the server in NO_PROXY"
    return ""


async def check_access(
    client: KubeClient,
    resource: Resource,
    namespace: str | None,
    verbs: Sequence[str],
    *,
    name: str = "",
    level: Level = "problem",
) -> AsyncIterator[Finding]:
    """For each verb, whether the account may do it, and the rule to add if it may not.

    Args:
        name: The name of the one object; empty for all.
        level: The level of the finding for a missing right.
    """
    for verb in verbs:
        what = f"{verb} {resource.plural} {place(namespace)}"
        try:
            allowed = await may(client, verb, resource, namespace, name)
        except KubeError as exc:
            # Not every account may ask this; then the list itself tells.
            refused = await _is_refused(client, verb, resource, namespace)
            if refused is not None:
                yield Finding("access", level, str(refused))
            else:
                text = f"{what}: it could not be asked whether that is allowed: {exc}"
                yield Finding("access", "note", text)
            continue
        if allowed:
            yield Finding("access", "ok", f"may {what}")
        else:
            rule = rule_for(resource, [verb], namespace)
            account = f"account {client.cluster.account}" if client.cluster.account else "without credentials"
            yield Finding("access", level, f"may not {what} ({account})", rule)


async def _is_refused(
    client: KubeClient, verb: str, resource: Resource, namespace: str | None
) -> KubeError | None:
    """The refusal, if the server does not let us list; None for other verbs too, which nobody tries."""
    if verb == "list":
        try:
            await client.read("GET", resource.path(namespace), params={"limit": "1"})
        except KubeError as exc:
            return exc
    return None


async def check_watch(client: KubeClient, query: ObjectQuery, seconds: float) -> Finding:
    """Hold one watch for some time, and say whether something on the way cuts it."""
    check, loop = "watch", asyncio.get_running_loop()
    try:
        page = await client.request("GET", query.path, params=query.page(1, ""))
        version = page["metadata"]["resourceVersion"]
    except KubeError as exc:
        return Finding(check, "problem", str(exc))
    except (LookupError, TypeError):
        return Finding(check, "problem", f"the list of {query} has no version")
    timing = ReflectorTiming()
    # The server would end it by itself only later.
    params = query.watch(version, round(seconds + timing.watch_overrun))
    events, why, begun = 0, "the server's side ended it", loop.time()
    try:
        async with asyncio.timeout(seconds) as limit:
            async with client.stream(
                query.path, params, connect_timeout=timing.connect_timeout, idle_timeout=timing.idle_limit
            ) as lines:
                begun = loop.time()
                async for _ in lines:
                    events += 1
    except TimeoutError:
        if not limit.expired():
            raise
        text = f"one of {query} stood for {format_duration(seconds)} ({events} events)"
        return Finding(check, "ok", text)
    except KubeError as exc:
        why = str(exc)
    lasted = loop.time() - begun
    text = f"one of {query} was cut after {lasted:.1f} s: {why}"
    fix = (
        "a balancer or proxy on the way ends connections on which nothing comes for a while: give it a "
        "longer idle timeout for the API server (bookmarks come once a minute)"
    )
    if lasted < timing.short_watch:
        return Finding(check, "problem", f"{text}; clients hardly see a change", fix)
    # Clients begin a watch anew at once, from where it ended.
    return Finding(check, "note", f"{text}; clients watch on at once, over a new connection each time", fix)
