"""What `pymicro bench` counts of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymicro.cli.histogram import Histogram

if TYPE_CHECKING:
    from pymicro.nodes.node import Node

__all__ = ["Failures", "Tally"]


@dataclass(slots=True)
class Failures:
    """Calls that ended with one status.

    Attributes:
        message: The message of the first one.
    """

    message: str
    calls: int = 0


@dataclass(slots=True)
class Tally:
    """The calls of one run.

    Attributes:
        latencies: Latencies of the calls that were OK.
        failures: The other calls, by the name of their status.
        nodes: Each node that was the last of a call, by its key.
        calls_by_node: The number of calls that ended on each node, OK or not.
        retries: Attempts beyond the first of each call.
        replies: Messages that were received.
    """

    latencies: Histogram = field(default_factory=Histogram)
    failures: dict[str, Failures] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    calls_by_node: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    replies: int = 0

    @property
    def ok(self) -> int:
        """Calls that were OK."""
        return self.latencies.count

    @property
    def calls(self) -> int:
        """Calls that ended in any way."""
        return self.ok + sum(failures.calls for failures in self.failures.values())

    def fail(self, status: str, message: str) -> None:
        """Count a call that was not OK."""
        self.failures.setdefault(status, Failures(message)).calls += 1

    def went_to(self, node: Node | None, attempts: int) -> None:
        """Count a call for the node it went to; None for a call that found no node."""
        if attempts > 1:
            self.retries += attempts - 1
        if node is not None:
            self.calls_by_node[node.key] += 1
            self.nodes[node.key] = node

    def know(self, nodes: Iterable[Node]) -> None:
        """Take note of nodes that exist, so that those without calls show."""
        for node in nodes:
            self.nodes.setdefault(node.key, node)

    @property
    def unevenness(self) -> float | None:
        """Calls of the busiest node, divided by the mean of all; 1 is even. None without calls."""
        total = self.calls_by_node.total()
        if not total:
            return None
        return max(self.calls_by_node.values()) * len(self.nodes) / total
