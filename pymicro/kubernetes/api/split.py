"""One collection read for several users at once: what of it belongs to whom, and a table for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pymicro.kubernetes.api.table import Table

__all__ = ["WHOLE", "Part", "Split", "SplitTable"]

T = TypeVar("T")

# The name of the only part of a collection that is not split.
WHOLE = ""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """The objects of a collection that one user wants.

    Attributes:
        name: What the user asks for it by.
        mark: What these objects bear, and no others; two parts may have the same.
        parse: Turns such an object into the value to keep, as for a `Table`; equal for parts
            that are interchangeable.
    """

    name: str
    mark: str
    parse: Callable[[Mapping[str, Any]], T | None]


@dataclass(frozen=True, slots=True)
class Split(Generic[T]):
    """How a collection is divided. Equal splits are interchangeable, so that users can share.

    Attributes:
        marks_of: The marks that an object bears; it may raise for an odd object, which then
            belongs to nobody.
        parts: The parts; an object may belong to several, or to none.
    """

    marks_of: Callable[[Mapping[str, Any]], Iterable[str]]
    parts: frozenset[Part[T]]

    @classmethod
    def whole(cls, parse: Callable[[Mapping[str, Any]], T | None]) -> Split[T]:
        """A single part, `WHOLE`, to which every object belongs."""
        return cls(_bears_all, frozenset([Part(WHOLE, WHOLE, parse)]))


def _bears_all(_: Mapping[str, Any]) -> Iterable[str]:
    return (WHOLE,)


class SplitTable(Generic[T]):
    """The objects of a split collection, each part in a table of its own.

    So nothing that one user's objects say reaches another user: an object that cannot be read is
    left out of the tables of those who cannot read it, and complaints are counted apart.

    Args:
        split: How to divide.
        what: Names the collection in the log.

    Attributes:
        changed: The names of parts that have changed since somebody last emptied this set.
    """

    def __init__(self, split: Split[T], what: str) -> None:
        self.changed: set[str] = set()
        self._split = split
        self._what = what
        self._tables: dict[str, Table[T]] = {}
        self._marks: dict[str, list[str]] = {}
        for part in sorted(split.parts, key=lambda part: part.name):
            name = f"{what} ({part.name})" if part.name else what
            self._tables[part.name] = Table(part.parse, name)
            self._marks.setdefault(part.mark, []).append(part.name)

    def successor(self) -> SplitTable[T]:
        """An empty one for a new list; it knows which complaints were logged already."""
        table = SplitTable(self._split, self._what)
        table._tables = {name: part.successor() for name, part in self._tables.items()}
        return table

    def objects(self, part: str) -> dict[str, T]:
        """The objects of a part, by uid."""
        return self._tables[part].objects

    @property
    def count(self) -> int:
        """How many objects are kept; one that belongs to two parts counts twice."""
        return sum(len(table.objects) for table in self._tables.values())

    @property
    def skipped(self) -> int:
        """How many objects are there that cannot be read."""
        return sum(table.skipped for table in self._tables.values())

    def complete(self) -> None:
        """The list is whole: forget the complaints about objects that it does not have."""
        for table in self._tables.values():
            table.complete()

    def put(self, found: Mapping[str, Any]) -> bool:
        """Keep an object as it is now, where it belongs now; returns whether that changes anything."""
        owners = self._owners(found)
        changed = False
        for name, table in self._tables.items():
            # An object may have lost a mark and still be in the collection.
            if table.put(found) if name in owners else table.drop(found):
                self.changed.add(name)
                changed = True
        return changed

    def drop(self, found: Mapping[str, Any]) -> bool:
        """Remove an object that is gone or no longer selected; returns whether that changes anything."""
        # We go by its uid alone: it may show marks that it no longer has.
        gone = [name for name, table in self._tables.items() if table.drop(found)]
        self.changed.update(gone)
        return bool(gone)

    def _owners(self, found: Mapping[str, Any]) -> Collection[str]:
        if self._split.marks_of is _bears_all:
            return self._tables
        try:
            return {name for mark in self._split.marks_of(found) for name in self._marks.get(mark, ())}
        except Exception:
            # Anybody may write objects. One that cannot even be sorted is nobody's.
            return set()
