"""The objects of a collection by uid, as far as they are of interest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.kubernetes.api.fields import mapping_at

__all__ = ["Table", "version_of"]

log = logger("pymicro.kube")

T = TypeVar("T")

# The longest error text about a bad object; anybody who may write objects may cause one.
_LONGEST_TEXT = 300


def version_of(found: Mapping[str, Any]) -> str:
    """The resourceVersion of an object or a list; empty if there is none."""
    version = mapping_at(found, "metadata").get("resourceVersion")
    return version if isinstance(version, str) else ""


class Table(Generic[T]):
    """What `parse` made of each object, by uid: a new object under an old name is another object.

    A bad object is skipped, counted, and logged once for as long as it is there and has the
    same fault.

    Args:
        parse: Object to value; None for one that is not of interest, ValueError for a bad one.
        what: Names the collection in the log.
    """

    def __init__(self, parse: Callable[[Mapping[str, Any]], T | None], what: str) -> None:
        self.objects: dict[str, T] = {}
        self._parse = parse
        self._what = what
        self._bad: dict[str, str] = {}
        self._complained: Mapping[str, str] = {}
        self._quota = LogQuota(log, f"{what}: more objects are skipped")

    def successor(self) -> Table[T]:
        """An empty table for a new list; it knows which complaints were logged already."""
        table = Table(self._parse, self._what)
        table._complained = {**self._complained, **self._bad}
        table._quota = self._quota
        return table

    @property
    def skipped(self) -> int:
        """How many objects are there that cannot be read."""
        return len(self._bad)

    def complete(self) -> None:
        """The list is whole: forget the complaints about objects that it does not have."""
        self._complained = {}

    def put(self, found: Mapping[str, Any]) -> bool:
        """Keep an object as it is now; returns whether that changes anything."""
        uid = mapping_at(found, "metadata").get("uid")
        if not isinstance(uid, str) or not uid:
            # Without a uid we remember it by its name.
            self._skip(f"without uid: {self._name(found)}", found, "it has no uid")
            return False
        try:
            value = self._parse(found)
        except ValueError as exc:
            self._skip(uid, found, str(exc))
            value = None
        except Exception as exc:
            # Anybody may write objects; a parser that trips over one must not hide the others.
            self._skip(uid, found, f"reading it failed with {excerpt(exc, 1000)}", trace=True)
            value = None
        else:
            self._bad.pop(uid, None)
        if value is None:
            return self.objects.pop(uid, None) is not None
        old = self.objects.get(uid)
        self.objects[uid] = value
        return old != value

    def drop(self, found: Mapping[str, Any]) -> bool:
        """Remove an object that is gone or no longer selected; returns whether that changes anything."""
        uid = mapping_at(found, "metadata").get("uid")
        if not isinstance(uid, str):
            return False
        self._bad.pop(uid, None)
        return self.objects.pop(uid, None) is not None

    def _skip(self, uid: str, found: Mapping[str, Any], text: str, *, trace: bool = False) -> None:
        text = text if text.isprintable() else repr(text)
        text = shortened(text, _LONGEST_TEXT)
        if text != self._bad.get(uid, self._complained.get(uid)):
            self._quota.say(
                logging.WARNING, "%s: %s is skipped: %s", self._what, self._name(found), text, trace=trace
            )
        self._bad[uid] = text

    @staticmethod
    def _name(found: Mapping[str, Any]) -> str:
        metadata = mapping_at(found, "metadata")
        name = f"{metadata.get('namespace')}/{metadata.get('name')}"[:_LONGEST_TEXT]
        return name if name.isprintable() else repr(name)
