"""What the soak calls: all four shapes, each of which may take a while.

python -m pymicro run tests/soak/service.py
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from pymicro import Service, handler
from tests.protos import zoo_pb2 as pb

# Seconds.
PAUSE = 0.02


async def pause(name: str) -> None:
    """As long as the caller has asked for: not at all, one turn of the loop, or anything up to `PAUSE`."""
    if name == "turn":
        await asyncio.sleep(0)
    elif name == "wait":
        await asyncio.sleep(random.uniform(0, PAUSE))


class Keeper:
    @handler
    async def import_(self, animal: Any) -> Any:
        await pause(animal.name)
        return animal

    @handler
    async def watch(self, query: Any) -> AsyncIterator[Any]:
        for number in range(5):
            await pause(query.name)
            yield pb.Animal(legs=number)

    @handler
    async def count(self, animals: AsyncIterator[Any]) -> Any:
        number = 0
        async for animal in animals:
            await pause(animal.name)
            number += 1
        return pb.Tally(count=number)

    @handler
    async def talk(self, animals: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for animal in animals:
            await pause(animal.name)
            yield animal


service = Service("soak", version="1.0.0")
service.add(Keeper(), pb, partial=True)

if __name__ == "__main__":
    service.init()
    service.run()
