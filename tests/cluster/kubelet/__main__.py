"""Runs the kubelet until SIGTERM, in the network namespace that it finds itself in."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from tests.cluster.kubelet.api import Api
from tests.cluster.kubelet.images import Images
from tests.cluster.kubelet.network import Network
from tests.cluster.kubelet.node import Node
from tests.cluster.kubelet.pod import Machine


async def main(arguments: argparse.Namespace) -> None:
    """Be a node until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Api(arguments.kubeconfig) as api:
        machine = Machine(api, Network(), Images(dict(arguments.image)), arguments.folder, arguments.node_ip)
        await Node(machine).run()


def image(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER`."""
    name, _, folder = text.partition("=")
    return name, Path(folder)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node-ip", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--image", type=image, action="append", default=[], metavar="NAME=FOLDER")
    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM
        asyncio.run(main(parser.parse_args()))
