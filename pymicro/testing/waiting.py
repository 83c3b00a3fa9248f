"""Reading node sets in tests: waits for the wanted one, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from pymicro.nodes.node import Node, NodeSet

__all__ = ["brief", "closed", "expect", "first", "nothing_left_of"]


def brief(nodes: NodeSet | None) -> str:
    """A set in a few words, for messages."""
    if nodes is None:
        return "no set at all"
    shown = [f"{node.id}@{node.address} {dict(node.metadata)}" for node in nodes.nodes[:5]]
    return f"{len(nodes)} nodes [{', '.join(shown)}{', …' if len(nodes) > 5 else ''}]"


def _checked(nodes: NodeSet, service: str | None) -> NodeSet:
    if not isinstance(nodes, NodeSet):
        raise AssertionError(f"a watch yields NodeSets, not {nodes!r}")
    if nodes != NodeSet.of(nodes):
        raise AssertionError(f"build sets with NodeSet.of: this one is not sorted by key: {brief(nodes)}")
    strangers = [node for node in nodes if service is not None and node.service != service]
    if strangers:
        raise AssertionError(f"the watch of {service!r} listed a node of {strangers[0].service!r}")
    return nodes


async def first(sets: AsyncIterator[NodeSet], *, within: float, service: str | None = None) -> NodeSet:
    """The next set of a watch.

    Raises:
        AssertionError: No set came within that many seconds, or it is malformed.
    """
    try:
        async with asyncio.timeout(within):
            return _checked(await anext(sets), service)
    except TimeoutError:
        raise AssertionError(f"no set came within {within} s") from None
    except StopAsyncIteration:
        raise AssertionError("the watch ended") from None


async def expect(
    sets: AsyncIterator[NodeSet], wanted: Iterable[Node], *, within: float, service: str | None = None
) -> int:
    """Read a watch until the set is exactly `wanted`; return how many sets that took.

    Raises:
        AssertionError: The set did not come within that many seconds.
    """
    target = NodeSet.of(wanted)
    last: NodeSet | None = None
    count = 0
    try:
        async with asyncio.timeout(within):
            async for nodes in sets:
                last = _checked(nodes, service)
                count += 1
                if nodes == target:
                    return count
    except TimeoutError:
        raise AssertionError(
            f"wanted {brief(target)} within {within} s; the last of {count} was {brief(last)}"
        ) from None
    raise AssertionError(f"the watch ended; wanted {brief(target)}, the last of {count} was {brief(last)}")


async def closed(sets: AsyncIterator[NodeSet]) -> None:
    """Close a watch, if it can be closed."""
    aclose = getattr(sets, "aclose", None)
    if aclose is not None:
        await aclose()


async def nothing_left_of(before: set[asyncio.Task[object]], *, within: float = 1.0) -> None:
    """Wait until the only tasks that run are those of `before`.

    Raises:
        AssertionError: Others still ran after that many seconds.
    """
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=within)
    if left:
        raise AssertionError(f"left behind: {', '.join(sorted(task.get_name() for task in left))}")
