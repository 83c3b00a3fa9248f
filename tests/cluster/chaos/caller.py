"""A client that calls the victim at a steady rate and keeps account of each call: a program for pods.

    python -m tests.cluster.chaos.caller round_robin --rate 50

Calls start at their times whether or not earlier ones have ended, each with the default timeout. Whether a
call is marked, so that it may run twice, is a matter of chance; the one method that there is says nothing
of itself, the channel does. A line for each call that has ended, and at the end (SIGTERM: no new calls,
those in flight finish) one that says how many were begun.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import signal
import time
from typing import Any

import pymicro
from tests.chaos.proto import SERVICE, Answer, Order

# What a handler takes, in seconds: long enough for a kill to find calls in flight.
TAKES = 0.1


def method_of(channel: Any) -> Any:
    """What a generated stub would have as `Plain`."""
    return channel.unary_unary(
        f"/{SERVICE.full_name}/Plain",
        request_serializer=Order.SerializeToString,
        response_deserializer=Answer.FromString,
    )


async def call(identity: str, method: Any) -> None:
    """Make one call and write what came of it; times are those of `time.time()`."""
    begun = time.time()
    made = method(Order(call=identity, seconds=TAKES))
    code, text = "OK", ""
    try:
        answer = await made
        if answer.call != identity:
            code, text = "WRONG", f"the answer to {answer.call}"
    except pymicro.RpcError as exc:
        code, text = exc.code().name, str(exc.details())
    line = {
        "call": identity,
        "begun": begun,
        "ended": time.time(),
        "node": "" if made.node is None else made.node.address,
        "code": code,
        "text": text,
    }
    print(json.dumps(line), flush=True)


async def main(name: str, rate: float) -> None:
    """Call until SIGTERM."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    async with pymicro.Client() as client:
        methods = {
            "plain": method_of(client.channel("victim")),
            "marked": method_of(client.channel("victim", idempotent=("Plain",))),
        }
        # The servers may not be there yet; that is no failure of theirs.
        async with contextlib.aclosing(client.watch_nodes("victim")) as found:
            async for nodes in found:
                if nodes:
                    break
        began, number = loop.time(), 0
        async with asyncio.TaskGroup() as calls:
            while not stopping.is_set():
                # In turn they would each see every second node of round robin only.
                kind = random.choice(list(methods))
                calls.create_task(call(f"{name}/{kind}/{number}", methods[kind]))
                number += 1
                await asyncio.sleep(began + number / rate - loop.time())
    print(json.dumps({"begun": number}), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("name", help="of this client, in the names of its calls")
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.name, arguments.rate))
