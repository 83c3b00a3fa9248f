"""What the account may do, and what to write to let it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pymicro.kube.resource import Resource

if TYPE_CHECKING:
    from pymicro.kube.client import KubeClient

__all__ = ["may", "rule_for"]

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")


def rule_for(resource: Resource, verbs: Sequence[str], namespace: str | None) -> str:
    """The RBAC rule that allows `verbs`, as YAML for the `rules` of a Role.

    A comment says where it belongs: a Role of `namespace`, or a ClusterRole if
    that is None (all namespaces).
    """
    where = (
        "a ClusterRole (with a ClusterRoleBinding)"
        if namespace is None
        else f"a Role in namespace {namespace}"
    )
    listed = ", ".join(f'"{verb}"' for verb in verbs)
    return (
        f"# under `rules` of {where}, bound to the account\n"
        f'- apiGroups: ["{resource.group}"]\n'
        f'  resources: ["{resource.plural}"]\n'
        f"  verbs: [{listed}]"
    )


async def may(
    client: KubeClient, verb: str, resource: Resource, namespace: str | None, name: str = ""
) -> bool:
    """Whether the account may do `verb` to `resource`; it asks with a SelfSubjectAccessReview.

    Args:
        client: Asks.
        verb: `list`, `watch`, `patch` …
        resource: To what.
        namespace: Where; None for all namespaces at once.
        name: One object; empty for all of them.

    Raises:
        KubeError: The server could not be asked, or answered something else.
    """
    attributes = {
        "verb": verb,
        "group": resource.group,
        "version": resource.version,
        "resource": resource.plural,
        "namespace": namespace or "",
        "name": name,
    }
    review = {
        "apiVersion": f"{_REVIEWS.group}/{_REVIEWS.version}",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.request("POST", _REVIEWS.path(None), body=review)
    status = answer.get("status") if isinstance(answer, dict) else None
    return isinstance(status, dict) and status.get("allowed") is True
