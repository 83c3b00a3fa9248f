"""Nodes that the program itself names, for one channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.nodes.listed import listed_node
from pymicro.nodes.node import NodeSet

__all__ = ["FixedNodes"]


class FixedNodes:
    """A selector that gives one service the nodes at given addresses, for ever. No registry is asked.

    Two of them are equal if their addresses are, so that channels share what they follow.

    Args:
        service: The service's name; it is in messages and metrics.
        addresses: Each is `host:port`; the host may be a name, of whose addresses calls take each in turn.

    Raises:
        ConfigError: There is no address, one cannot be used, or one is there twice.
    """

    name = "address"
    uses_registry = False

    def __init__(self, service: str, addresses: Iterable[str]) -> None:
        nodes = []
        for text in addresses:
            if not isinstance(text, str):
                raise ConfigError(
                    f"address= of channel {service}: {excerpt(text)} is no text like 10.0.0.1:8080"
                )
            try:
                nodes.append(listed_node(service, text, names=True))
            except ValueError as exc:
                raise ConfigError(
                    f"address= of channel {service}: {exc} (each is host:port, such as 10.0.0.1:8080, "
                    "[::1]:8080 or checkout.example.com:8080)"
                ) from None
        self._addresses = tuple(sorted(node.address for node in nodes))
        if not nodes:
            raise ConfigError(f"address= of channel {service} has no address")
        for first, second in zip(self._addresses, self._addresses[1:], strict=False):
            if first == second:
                raise ConfigError(f"address= of channel {service}: {first} is there twice")
        self._nodes = NodeSet.of(nodes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedNodes) and other._addresses == self._addresses

    def __hash__(self) -> int:
        return hash(self._addresses)

    def describe(self, service: str) -> str:
        """`address= of its channel (10.0.0.1:8080 and 2 more)`."""
        more = f" and {len(self._addresses) - 1} more" if len(self._addresses) > 1 else ""
        return f"address= of its channel ({self._addresses[0]}{more})"

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The nodes, once."""
        yield self._nodes
        await asyncio.Event().wait()  # they stay

    def refresh(self, service: str) -> None:
        """Do nothing: the addresses stay, and names are resolved again when a connection ends."""
