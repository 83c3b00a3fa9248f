"""What the account may do."""

from __future__ import annotations

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.resource import Resource

__all__ = ["may"]

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")


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
