"""Whether a cluster can be asked at all: the first lines of `pymicro doctor`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from pymicro.base.errors import ConfigError
from pymicro.base.findings import Finding, Level
from pymicro.kubernetes.api.access import may
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import Resource, rule_for

__all__ = ["check_access", "check_cluster", "place"]


def place(namespace: str | None) -> str:
    """`in namespace shop`."""
    return "in all namespaces" if namespace is None else f"in namespace {namespace}"


async def check_cluster(client: KubeClient) -> AsyncIterator[Finding]:
    """Check credentials, then the API server; if it cannot be asked, the last finding is a problem."""
    try:
        cluster = await client.find()
        await cluster.login()
    except (ConfigError, KubeError) as exc:
        yield Finding("credentials", "problem", str(exc))
        return
    account = f", account {cluster.account}" if cluster.account else ""
    yield Finding("credentials", "ok", f"{cluster.describe()}{account}")
    try:
        answer = await client.request("GET", "/version")
    except KubeError as exc:
        if exc.status == 403:  # the server answers, but tells this account nothing more
            yield Finding("API server", "ok", f"{cluster.way} answers")
        else:
            yield Finding("API server", "problem", str(exc), _mending(exc, cluster.in_pod))
        return
    version = answer.get("gitVersion") if isinstance(answer, dict) else None
    yield Finding("API server", "ok", f"{cluster.way} answers{f' ({version})' if version else ''}")


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
            # Not every account may ask this; then the list itself will tell.
            yield Finding("access", "note", f"{what}: it could not be asked whether that is allowed: {exc}")
            continue
        if allowed:
            yield Finding("access", "ok", f"may {what}")
        else:
            rule = rule_for(resource, [verb], namespace)
            account = f"account {client.cluster.account}" if client.cluster.account else "without credentials"
            yield Finding("access", level, f"may not {what} ({account})", rule)
