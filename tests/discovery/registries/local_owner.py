"""A program that registers nodes with registry `local` and waits to be killed.

    python local_owner.py FOLDER [--fork] ADDRESS…

Prints `ready`, after `child PID` if it forked a child that outlives it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load


def child_that_stays() -> int:
    pid = os.fork()
    if pid == 0:
        # Whoever reads the parent's output shall see its end.
        os.close(1)
        os.close(2)
        # Neither Python's exit nor the registry's may run in the copy.
        signal.pause()
        os._exit(0)
    return pid


async def main(folder: str, *arguments: str) -> None:
    addresses = [argument for argument in arguments if argument != "--fork"]
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        for address in addresses:
            await registry.register(Node(id=f"id-{address}", address=address, service="greeter"))
        if "--fork" in arguments:
            print("child", child_that_stays(), flush=True)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
