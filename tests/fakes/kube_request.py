"""What a request to an API server asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes.kube_status import Refused
from tests.fakes.kube_store import KINDS, Key, Kind

__all__ = ["Request", "Target", "parse_path", "read_body", "verb_of"]


@dataclass
class Request:
    """One request as it came.

    Attributes:
        verb: As RBAC has it: `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`.
        plural: The resource, such as `pods`; with its subresource: `pods/status`.
        status: What was answered; 0 while it is not.
    """

    verb: str
    plural: str
    namespace: str
    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    path: str
    body: Any = None
    status: int = 0

    def __str__(self) -> str:
        return f"{self.verb} {self.path} {dict(self.query)}: {self.status}"

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


@dataclass
class Target:
    """What a path names."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return self.kind.plural, self.namespace, self.name


def parse_path(path: str) -> Target:
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and parts[1:2] == ["v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise Refused(404, "the server could not find the requested resource")
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    kind = KINDS.get(rest[0]) if rest else None
    if kind is None or (kind.group, kind.version) != (group, version) or len(rest) > 3:
        raise Refused(404, "the server could not find the requested resource")
    name, subresource = [*rest[1:], "", ""][:2]
    return Target(kind, namespace, name, subresource)


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    if method == "GET":
        if query.get("watch") in ("1", "true"):
            return "watch"
        return "get" if target.name else "list"
    verbs = {"PUT": "update", "PATCH": "patch", "DELETE": "delete"} if target.name else {"POST": "create"}
    if method not in verbs:
        raise Refused(405, "the server does not allow this method on the requested resource")
    return verbs[method]


async def read_body(request: web.BaseRequest) -> Any:
    text = await request.read()
    try:
        return json.loads(text) if text else {}
    except ValueError as exc:
        raise Refused(400, f"the object provided is unrecognized: {exc}") from exc
