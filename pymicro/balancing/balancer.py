"""The contract of balancers: which node a call takes.

For authors of plug-ins: a balancer needs nothing else of pymicro. `docs/plugins.md` shows one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pymicro.base.errors import ConfigError, NoNode, PluginError
from pymicro.nodes.node import Node, NodeSet
from pymicro.settings.config import Config

__all__ = [
    "CANCELLED",
    "NO_TRIED",
    "OUTCOMES",
    "Balancer",
    "CallInfo",
    "Config",
    "ConfigError",
    "NoNode",
    "Node",
    "NodeSet",
    "Outcome",
    "Pick",
    "PlainPick",
    "PluginError",
    "nothing_left",
]

NO_TRIED: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a balancer may know about a call.

    Attributes:
        method: `/package.Service/Method`.
        tried: Keys of the nodes that earlier attempts went to; do not pick them again.
        streams: Whether requests or responses are a stream: how long such a call lasts is
            no latency.
    """

    method: str
    tried: frozenset[str] = NO_TRIED
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call on the picked node ended.

    Attributes:
        code: The status as its number (0 is OK); 1 for a call that our side cancelled.
        local: True if our side cancelled the call, which says nothing about the node.
    """

    code: int
    local: bool = False


OUTCOMES: tuple[Outcome, ...] = tuple(Outcome(code) for code in range(17))
CANCELLED = Outcome(1, local=True)


class Pick(Protocol):
    """One choice of a balancer; calls may share one.

    It may have a method `answered()` too: the caller calls it when the first response of a
    stream has come, at most once and before `done`.
    """

    @property
    def node(self) -> Node:
        """The node to call."""
        ...

    def done(self, outcome: Outcome) -> None:
        """The call has ended in this way. The caller calls this exactly once for each pick."""
        ...


class Balancer(Protocol):
    """Chooses one node for each call. Built as `Balancer(config)`.

    It may have a method `figures(key)` too, which gives what it keeps of a node by the node's key, as
    numbers by name, or None: the admin port shows them to people. `latency` is in seconds.
    """

    def update(self, nodes: NodeSet, usable: NodeSet) -> None:
        """Replace both sets: keep figures for `nodes`, pick only from `usable`.

        The caller computes `usable` (connected, not ejected, filters) and calls
        at most once in 10 ms.
        """
        ...

    def pick(self, call: CallInfo) -> Pick:
        """Choose at once; never wait.

        Raises:
            NoNode: Nothing is left to choose from.
        """
        ...


class PlainPick:
    """The pick of a balancer that keeps no figures: one for each node, shared by all its calls."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def done(self, outcome: Outcome) -> None:
        """Do nothing: these balancers learn nothing from calls."""


def nothing_left(usable: int, call: CallInfo) -> NoNode:
    """The error for a call that found nothing to pick among `usable` nodes."""
    if usable == 0:
        return NoNode("no node is usable")
    return NoNode(f"{call.method} was tried on each of the {usable} usable nodes")
