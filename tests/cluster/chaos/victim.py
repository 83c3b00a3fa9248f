"""A service whose calls take as long as they ask for: a program that tests run in pods, and trouble.

After SIGUSR1 it is ten times as slow, after SIGUSR2 as before. Each call is a line, written before it goes
on: what a process has given to the kernel outlives its SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from pymicro import CallContext, Service, handler
from tests.chaos.proto import SERVICE, Answer

SLOWER = 10


class Victim:
    slowness = 1

    @handler
    async def plain(self, order: Any, context: CallContext) -> Any:
        ran = {"ran": order.call, "at": time.time(), "attempt": context.previous_attempts}
        os.write(sys.stdout.fileno(), f"{json.dumps(ran)}\n".encode())
        await asyncio.sleep(order.seconds * self.slowness)
        return Answer(call=order.call)


victim = Victim()
service = Service("victim", version="1.0.0")
service.add(victim, SERVICE, partial=True)


def be_slow(number: int, _frame: object) -> None:
    victim.slowness = SLOWER if number == signal.SIGUSR1 else 1


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, be_slow)
    signal.signal(signal.SIGUSR2, be_slow)
    service.init()
    service.run()
