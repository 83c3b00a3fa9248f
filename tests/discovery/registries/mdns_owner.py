"""A program that registers a node with registry `mdns` and waits to be killed.

    python mdns_owner.py ADDRESS DOCUMENT…

Prints `ready`. ADDRESS is the registry's, a document a node as registry `local` writes it.
"""

from __future__ import annotations

import asyncio
import sys

from pymicro.discovery.registries.local.json import load_node
from pymicro.discovery.registries.mdns import MdnsRegistry
from pymicro.settings.config import load


async def main(address: str, *documents: str) -> None:
    async with MdnsRegistry(load({"registry_address": address}, environ={})) as registry:
        for document in documents:
            await registry.register(load_node(document.encode()))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
