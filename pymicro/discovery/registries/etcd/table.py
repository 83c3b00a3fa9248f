"""Turns the values under a service's keys into its nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.record import load_record
from pymicro.nodes.table import NodeTable

__all__ = ["ServiceTable", "Unreadable", "ValueReading", "read_value"]

log = logger("pymicro.registry.etcd")

# The most unreadable keys named in a log line.
_NAMED = 3
_LONGEST_KEY = 120
_LONGEST_PROBLEM = 200


@dataclass(frozen=True, slots=True)
class ValueReading:
    """What we read from one value.

    Attributes:
        service: The service in the record; empty if the value is no record.
        nodes: The nodes that can be read.
        problem: Why it is no record, or what is wrong with some of its nodes; may be empty.
    """

    service: str = ""
    nodes: tuple[Node, ...] = ()
    problem: str = ""


def read_value(value: bytes) -> ValueReading:
    """Read a value that anybody may have written; never fails."""
    if not value:
        return ValueReading(problem="it is empty, or larger than a message may be")
    try:
        record = load_record(value.decode())
    except UnicodeDecodeError:
        return ValueReading(problem="it is no valid UTF-8")
    except ValueError as exc:
        return ValueReading(problem=str(exc))
    return ValueReading(record.service, record.nodes, "; ".join(record.problems))


class Unreadable:
    """The values that are no records, service by service; each is logged once, within reason."""

    def __init__(self) -> None:
        self._problems: dict[str, Mapping[str, str]] = {}
        self._quota = LogQuota(log, "registry etcd: more values are skipped")

    def __len__(self) -> int:
        return sum(map(len, self._problems.values()))

    def note(self, service: str, problems: Mapping[str, str]) -> None:
        """Note all problems that a service has now, by key."""
        known = self._problems.pop(service, {})
        new = [key for key, problem in problems.items() if known.get(key) != problem]
        if problems:
            self._problems[service] = problems
        if not new:
            return
        named = "; ".join(
            f"{excerpt(key, _LONGEST_KEY)}: {shortened(problems[key], _LONGEST_PROBLEM)}"
            for key in new[:_NAMED]
        )
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        text = "registry etcd: skipping %d of %s: %s%s"
        self._quota.say(logging.WARNING, text, len(new), service, named, more)


class ServiceTable:
    """One service's keys and what is under them.

    Two services can have the same keys, since / is written as -: the name in the record
    decides.
    """

    def __init__(self, service: str, unreadable: Unreadable) -> None:
        self._service = service
        self._unreadable = unreadable
        self._nodes: dict[str, tuple[Node, ...]] = {}
        self._problems: dict[str, str] = {}
        self._table = NodeTable()

    def replace(self, readings: Mapping[str, ValueReading]) -> None:
        """Replace everything: these are all keys there are."""
        self._nodes = {}
        self._problems = {}
        self.update(readings)

    def update(self, readings: Mapping[str, ValueReading | None]) -> None:
        """Update these keys, which were written or (None) deleted."""
        for key, reading in readings.items():
            self._nodes.pop(key, None)
            self._problems.pop(key, None)
            if reading is None or (reading.service and reading.service != self._service):
                continue
            if reading.nodes:
                self._nodes[key] = reading.nodes
            if reading.problem:
                self._problems[key] = reading.problem

    def nodes(self) -> NodeSet:
        """All nodes; unchanged ones are the same objects as before."""
        self._unreadable.note(self._service, dict(self._problems))
        return self._table.replace("", self._nodes)
