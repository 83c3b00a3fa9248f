"""A registry that is gone: what was known last must do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from pymicro import Client, MemoryRegistry, Node, NodeSet, RegistryError
from tests.bars import REGISTRY_AWAY, Bars
from tests.chaos.fleet import Fleet, Member, addresses
from tests.chaos.load import Load, ended, spread
from tests.chaos.tally import Tally

pytestmark = pytest.mark.alone


class Failing(MemoryRegistry):
    """Tells once who is there, and from then on only that it cannot be asked."""

    told = False

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        if not self.told:
            self.told = True
            async with aclosing(super().watch(service)) as nodes:
                async for found in nodes:
                    yield found
                    break
        raise RegistryError("the registry has burned down")


def take_away(folder: Path) -> None:
    folder.rename(folder.with_name("taken away"))
    folder.write_text("no folder")  # nor can it be made anew


async def live_through(
    fleet: Fleet, members: list[Member], client: Client, away: Path | None
) -> tuple[Tally, Tally]:
    """Calls while the registry is away, two of five nodes are killed and one comes back."""
    dead = members[:2]
    channel = client.channel("victim")
    async with (
        Load(channel, "Marked", rate=80, seconds=0.05) as marked,
        Load(channel, "Plain", rate=40, seconds=0.05) as plain,
    ):
        await spread(marked, addresses(members))
        if away is not None:
            take_away(away)
        await ended(marked, plain, count=60)
        for member in dead:
            await fleet.kill(member)
            await ended(marked, plain, count=40)
        await fleet.again(dead[0])
        await spread(marked, addresses(members) - {dead[1].address})
    journal = fleet.journal()
    unmarked = Tally(plain.calls, journal)
    unmarked.sound()
    unmarked.failed_only_on(addresses(dead))
    return Tally(marked.calls, journal), unmarked


@pytest.mark.parametrize("registry", ["local", "memory"])
async def test_a_registry_that_is_away_for_the_whole_test(
    fleet: Fleet, registry_folder: str, bars: Bars, registry: str
) -> None:
    # They are only to listen: with a registry of their own that does not go away.
    settings = {} if registry == "local" else {"MICRO_REGISTRY": "memory"}
    members = await fleet.start(5, **settings)
    members[0].settings["MICRO_REGISTRY"] = "memory"  # when it comes back, its registry is away
    if registry == "local":
        async with Client(registry_address=registry_folder) as client:
            marked, plain = await live_through(fleet, members, client, Path(registry_folder))
    else:
        async with Failing() as failing:
            for member in members:
                await failing.register(Node(member.name, member.address, "victim"))
            async with Client(registry=failing) as client:
                marked, plain = await live_through(fleet, members, client, None)
    in_flight = len(plain.failed)
    bars.met(
        REGISTRY_AWAY,
        f"{len(marked.failed)} of {len(marked.calls)} ({in_flight} unmarked, when their node was killed)",
        not marked.failed,
    )
    marked.check()
