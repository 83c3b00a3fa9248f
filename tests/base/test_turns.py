"""Long work lets others run, by elapsed time."""

from __future__ import annotations

import asyncio

from pymicro.base.turns import Turns


async def test_a_loop_over_what_is_there_lets_others_run_by_elapsed_time() -> None:
    turned = 0

    async def other() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    turns = Turns(0.005)
    for _ in range(3):
        await turns.give()
    assert turned == 0
    turns = Turns(0.0)
    for _ in range(3):
        await turns.give()
    assert turned == 3
    task.cancel()
