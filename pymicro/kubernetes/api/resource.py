"""Which collection of the API is meant, what a request asks of it, and which rule allows that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

__all__ = ["ENDPOINT_SLICES", "PODS", "Asked", "Resource", "rule_for"]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as the API's paths name it.

    Attributes:
        group: The API group; empty for the core group.
        version: The group's version, such as `v1`.
        plural: The collection's name, such as `pods`.
    """

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str = "") -> str:
        """The path of the collection in `namespace`, in all of them if None; of one object with `name`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
        return f"{root}{scope}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


PODS = Resource("", "v1", "pods")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in the words of RBAC.

    Attributes:
        verb: `list`, `watch`, `get`, `patch` …
        resource: The collection; None for a path that is none (`/version`).
        namespace: None for all namespaces.
        name: The object's; empty for the collection.
        path: As it was asked.
    """

    verb: str
    resource: Resource | None
    namespace: str | None
    name: str
    path: str

    @classmethod
    def of(cls, method: str, path: str, params: Mapping[str, str]) -> Asked:
        """What the API server makes of a request (Kubernetes: "Determine the Request Verb")."""
        parts = [unquote(part) for part in path.split("/") if part]
        match parts:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                return cls(method.lower(), None, None, "", path)
        namespace = None
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        if not rest:
            return cls(method.lower(), None, None, "", path)
        name = rest[1] if len(rest) > 1 else ""
        if method in _VERBS:
            verb = _VERBS[method]
        elif name:
            verb = "get"
        else:
            verb = "watch" if params.get("watch") in ("1", "true") else "list"
        return cls(verb, Resource(group, version, rest[0]), namespace, name, path)

    def __str__(self) -> str:
        if self.resource is None:
            return f"{self.verb} {self.path}"
        what = f"{self.resource.plural} {self.name}".rstrip()
        if self.namespace is not None:
            return f"{self.verb} {what} in namespace {self.namespace}"
        # What is created without a namespace (a review of access) belongs to none.
        return (
            f"{self.verb} {what} in all namespaces"
            if self.verb in ("list", "watch")
            else f"{self.verb} {what}"
        )


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
