"""What the account may do."""

from __future__ import annotations

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.resource import Resource

__all__ = ["may"]

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")


async def may(
    client: KubeClient, verb: str, resource: Resource, namespace: str | None, name: str = ""
) -> bool:
    """Ask with a SelfSubjectAccessReview whether the account may do `verb` to `resource`.

    Args:
        client: Sends the request.
        verb: `list`, `watch`, `patch` …
        resource: What the verb is done to.
        namespace: The namespace; None for all of them at once.
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
