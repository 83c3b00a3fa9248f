"""The collections of the API, what a request asks of one, and the RBAC rule that allows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt

__all__ = ["ENDPOINT_SLICES", "PODS", "Asked", "Resource", "check_namespace", "rule_for"]

# Kubernetes: "DNS Label Names" (RFC 1123).
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


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
        """The path of the collection in `namespace` (None: in all of them), or of one object by `name`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
        return f"{root}{scope}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


PODS = Resource("", "v1", "pods")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")


def check_namespace(name: str, where: str) -> str:
    """`name`, if a namespace can be called so: `..` would lead to another path of the API.

    Args:
        name: What was given.
        where: Where it was given, for the message.

    Raises:
        ConfigError: None can.
    """
    if not _NAMESPACE.fullmatch(name):
        raise ConfigError(
            f"{where}: {excerpt(name)} is no namespace (at most 63 small letters, digits and -, with a "
            "letter or digit at both ends)"
        )
    return name


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in the words of RBAC.

    Attributes:
        verb: `list`, `watch`, `get`, `patch` …
        resource: The collection; None for a path without one (`/version`).
        namespace: None for all namespaces.
        name: The object's; empty for the collection.
        path: The path of the request.
    """

    verb: str
    resource: Resource | None
    namespace: str | None
    name: str
    path: str

    @classmethod
    def of(cls, method: str, path: str, params: Mapping[str, str]) -> Asked:
        """The request as the API server understands it (Kubernetes: "Determine the Request Verb")."""
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
        # An object created without a namespace (a review of access) belongs to none.
        return (
            f"{self.verb} {what} in all namespaces"
            if self.verb in ("list", "watch")
            else f"{self.verb} {what}"
        )


def rule_for(resource: Resource, verbs: Sequence[str], namespace: str | None) -> str:
    """The RBAC rule that allows `verbs`, as YAML for the `rules` of a Role.

    A comment in it says where it belongs: in a Role of `namespace`, or in a ClusterRole if
    `namespace` is None (all namespaces).
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
