"""The objects of the fake API server: versions, history, and what a watcher of them is told."""

from __future__ import annotations

import copy
import datetime
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.kube_selectors import Selector
from tests.fakes.kube_status import Refused

__all__ = ["KINDS", "Change", "Kind", "Scope", "Store", "now"]

Key = tuple[str, str, str]  # plural, namespace, name


@dataclass(frozen=True)
class Kind:
    """A resource the fake serves."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS = {
    "pods": Kind("", "v1", "pods", "Pod"),
    "endpointslices": Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    "namespaces": Kind("", "v1", "namespaces", "Namespace"),
}
PLURALS = {kind.kind: kind.plural for kind in KINDS.values()}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Stored:
    """One version of one object; never changed, only replaced."""

    __slots__ = ("_json", "key", "obj")

    def __init__(self, key: Key, obj: dict[str, Any]) -> None:
        self.key = key
        self.obj = obj
        self._json = b""

    @property
    def json(self) -> bytes:
        # Made once however many watchers there are.
        if not self._json:
            self._json = json.dumps(self.obj, ensure_ascii=False, separators=(",", ":")).encode()
        return self._json

    def at(self, version: int) -> Stored:
        """The same object under another resourceVersion."""
        metadata = {**self.obj["metadata"], "resourceVersion": str(version)}
        return Stored(self.key, {**self.obj, "metadata": metadata})


@dataclass(frozen=True)
class Scope:
    """What a list or a watch asks for; no namespace means all."""

    plural: str
    namespace: str
    matches: Selector

    def has(self, stored: Stored) -> bool:
        plural, namespace, _ = stored.key
        return (
            plural == self.plural
            and (not self.namespace or namespace == self.namespace)
            and self.matches(stored.obj)
        )


@dataclass(frozen=True)
class Change:
    """One write: what was there before and after it."""

    version: int
    before: Stored | None
    after: Stored | None

    def seen_by(self, scope: Scope) -> tuple[str, Stored] | None:
        """The event a watcher of `scope` gets, if any.

        An object that no longer matches is DELETED and shows its old labels under the
        new version, one that matches now is ADDED: so does the real server.
        """
        was = self.before if self.before is not None and scope.has(self.before) else None
        now_ = self.after if self.after is not None and scope.has(self.after) else None
        if was is None:
            return None if now_ is None else ("ADDED", now_)
        return ("DELETED", was.at(self.version)) if now_ is None else ("MODIFIED", now_)


@dataclass
class Store:
    """Objects by plural, namespace and name, and every change made to them.

    Attributes:
        version: The newest resourceVersion; one sequence for all resources.
        oldest: Watches and continued lists from before this version are too old.
        listeners: Called with each change.
    """

    version: int = 1000
    oldest: int = 0
    listeners: list[Callable[[Change], None]] = field(default_factory=list)
    objects: dict[Key, Stored] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)

    def get(self, key: Key) -> Stored:
        """The object there.

        Raises:
            Refused: 404.
        """
        if key not in self.objects:
            plural, _, name = key
            raise Refused(404, f'{plural} "{name}" not found', details={"name": name, "kind": plural})
        return self.objects[key]

    def create(self, obj: dict[str, Any]) -> Stored:
        key = key_of(obj)
        if key in self.objects:
            plural, _, name = key
            raise Refused(
                409,
                f'{plural} "{name}" already exists',
                reason="AlreadyExists",
                details={"name": name, "kind": plural},
            )
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now())
        metadata.setdefault("generation", 1)
        _tidy(obj)
        return self._write(key, None, obj)

    def update(self, obj: dict[str, Any]) -> Stored:
        """Replace an object, whose identity stays; writing what is there already changes nothing."""
        key = key_of(obj)
        before = self.get(key)
        obj = copy.deepcopy(obj)
        old = before.obj["metadata"]
        for name in ("uid", "creationTimestamp", "resourceVersion", "generation"):
            obj["metadata"][name] = old[name]
        _tidy(obj)
        if obj == before.obj:
            return before
        return self._write(key, before, obj)

    def remove(self, key: Key) -> Stored:
        before = self.get(key)
        del self.objects[key]
        self.version += 1
        self._tell(Change(self.version, before, None))
        return before.at(self.version)

    def _write(self, key: Key, before: Stored | None, obj: dict[str, Any]) -> Stored:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        after = self.objects[key] = Stored(key, obj)
        self._tell(Change(self.version, before, after))
        return after

    def _tell(self, change: Change) -> None:
        self.history.append(change)
        for listener in list(self.listeners):
            listener(change)

    def list(self, scope: Scope) -> Iterable[Stored]:
        """What `scope` has, in the order of etcd's keys: namespace, then name."""
        return sorted((one for one in self.objects.values() if scope.has(one)), key=lambda one: one.key)

    def since(self, version: int) -> Iterator[Change]:
        """Every change after `version`."""
        return (change for change in self.history if change.version > version)

    def forget_before(self, version: int) -> None:
        """Versions before `version` are too old from now on, as after a compaction."""
        self.oldest = max(self.oldest, version)
        self.history = [change for change in self.history if change.version > self.oldest]


def key_of(obj: dict[str, Any]) -> Key:
    metadata = obj["metadata"]
    return PLURALS[obj["kind"]], metadata.get("namespace", ""), metadata["name"]


def _tidy(obj: dict[str, Any]) -> None:
    """An API server leaves empty maps out of metadata."""
    for name in ("labels", "annotations"):
        if not obj["metadata"].get(name, True):
            del obj["metadata"][name]
