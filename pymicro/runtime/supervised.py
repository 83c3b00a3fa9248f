"""What a process started by `pymicro run --reload` tells its supervisor.

They speak in lines over a socket. First the process checks everything that it can
without starting; then it says so, and which address it will take. At the supervisor's
`go` it starts, and then says `started`. If the supervisor is gone, for whatever reason,
the process stops.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import threading
import time
from contextvars import ContextVar
from typing import Final

__all__ = ["GO", "MARGIN", "Supervised", "supervisor"]

GO: Final = b"go\n"

# Seconds a stop may take besides the waits that are settings: to deregister from a slow
# registry, to clean up. A process that needs longer is killed.
MARGIN: Final = 3.0


class Supervised:
    """This process's end of the socket. From here on, only the supervisor answers SIGINT.

    Ctrl-C on a terminal reaches both. The supervisor then signals this process, which
    would take that for the second signal.

    Args:
        descriptor: The socket's descriptor; this object takes it over.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._go: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._longest = MARGIN
        # A handler and not SIG_IGN, which programs started by this one would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # A thread, since the user's code may block the event loop, or never start one.
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    async def turn(self, *, address: str, alone: bool, longest: float) -> None:
        """Wait until this process may start.

        Args:
            address: The `host:port` that only one process can listen on; empty for any port.
            alone: Whether the previous process must have left for another reason.
            longest: Seconds that a stop takes at most, not counting `MARGIN`.
        """
        self._longest = longest + MARGIN
        self._say({"event": "checked", "address": address, "alone": alone, "longest": self._longest})
        await asyncio.shield(asyncio.wrap_future(self._go))

    def started(self) -> None:
        """Tell the supervisor that calls are answered and the registry knows the node."""
        self._say({"event": "started"})

    def _say(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which _listen notices
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(len(GO)):
                if not self._go.done():
                    self._go.set_result(None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._longest)
        os.kill(os.getpid(), signal.SIGKILL)


# `pymicro run` sets it before it imports the user's code.
supervisor: ContextVar[Supervised | None] = ContextVar("pymicro_supervisor", default=None)
