"""What one service's watch wants of one namespace, and the watches of the API that can bring it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.split import WHOLE, Part, Split
from pymicro.nodes.node import Node

__all__ = ["Parse", "Source", "Wanted"]

Parse = Callable[[Mapping[str, Any]], tuple[Node, ...] | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The objects of one service in one namespace (or in all).

    Attributes:
        service: The service's name.
        query: Selects exactly these objects.
        mark: What they bear and others do not, as the `marks_of` of a `Split` finds it.
        parse: Turns an object into its nodes; equal for equal services.
    """

    service: str
    query: ObjectQuery
    mark: str
    parse: Parse

    @property
    def part(self) -> Part[tuple[Node, ...]]:
        """The same, as a part of a collection that is read for several services."""
        return Part(self.service, self.mark, self.parse)

    @property
    def own_source(self) -> Source:
        """A watch that brings these objects and nothing else."""
        return Source(self.query, Split.whole(self.parse), WHOLE)


@dataclass(frozen=True, slots=True)
class Source:
    """A watch of the API, and the part of it that is one service's. Equal sources are one watch.

    Attributes:
        query: What is watched.
        split: How it is divided.
        part: The service's part.
        list_limit: Seconds that its list may take.
    """

    query: ObjectQuery
    split: Split[tuple[Node, ...]]
    part: str
    list_limit: float = float("inf")

    @property
    def shared(self) -> bool:
        """Whether it is one for several services."""
        return self.part != WHOLE
