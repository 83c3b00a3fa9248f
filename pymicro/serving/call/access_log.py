"""The access log: one line for a call that has ended, written by a thread of its own.

A call leaves a few values in a queue and goes on. What the thread cannot write in time is dropped and
counted, so neither a slow disk nor a pipe that nobody reads holds up a call.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from pymicro.base.loggers import logger
from pymicro.settings.access import AccessRule
from pymicro.telemetry.statuses import STATUSES
from pymicro.telemetry.tracing import current_ids, trace_id_of

if TYPE_CHECKING:
    from pymicro.rpc.wire.metadata import Pair

__all__ = ["AccessLog"]

log = logger("pymicro.access")

# Lines that wait to be written, half a second of them at 20,000 calls a second; more are dropped and counted.
MOST = 10_000
# Seconds in which lines are gathered: waking a thread for each call would cost more than its line.
GATHER = 0.05
# Seconds that a stop waits for lines to be written.
LAST = 1.0
# Characters of a path, which for an unknown method is a stranger's word.
LONGEST = 200


class _Line(NamedTuple):
    """What is known of a call that has ended.

    Attributes:
        moment: When it ended, in seconds since 1970.
        path: `/package.Service/Method`.
        code: The number of its status.
        seconds: How long it took.
        peer: Its caller's address.
        trace: The id of its trace; empty if it has none.
        received: Bytes of the one request; None for a stream of them.
        sent: Bytes of the one response; None if there was none, or for a stream of them.
        caller: Who called; empty if nobody knows.
    """

    moment: float
    path: str
    code: int
    seconds: float
    peer: str
    trace: str
    received: int | None
    sent: int | None
    caller: str


class AccessLog:
    """Lists calls that have ended in the log, as `pymicro.access`.

    Args:
        rule: Which calls.

    Attributes:
        names_callers: Whether callers can prove who they are, so that lines name them.
    """

    def __init__(self, rule: AccessRule) -> None:
        self.names_callers = False
        self._share, self._slow = rule.share, rule.slow
        self._lines: deque[_Line] = deque()
        self._dropped = 0  # written in the event loop only
        self._said = 0  # of these; written in the thread only
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._awake = False
        self._ending = threading.Event()

    def wants(self, seconds: float) -> bool:
        """Whether a call that took so long gets a line."""
        if self._slow is not None and seconds >= self._slow:
            return True
        share = self._share
        return share >= 1.0 or (share > 0.0 and random.random() < share)

    def put(
        self,
        path: str,
        code: int,
        seconds: float,
        call: Any,
        trace: str,
        received: int | None = None,
        sent: int | None = None,
        caller: str = "",
    ) -> None:
        """Have a line written.

        Args:
            call: A `ServedCall` or what is like one, which tells peer and metadata.
            trace: The id of its trace; empty to take what the caller sent.
            caller: Who makes it; empty if nobody knows.
        """
        if len(self._lines) >= MOST:
            self._dropped += 1
            return
        try:
            peer = call.peer()
            trace = trace or trace_id_of(_texts(call.invocation_metadata() or ()))
            if not trace and (ids := current_ids()) is not None:
                trace = ids[0]
        except Exception:  # of a context that a foreign interceptor has put in the place of the call's
            peer = "unknown"
        line = _Line(time.time(), path[:LONGEST], code, seconds, peer, trace, received, sent, caller)
        self._lines.append(line)
        if not self._awake:
            self._awake = True
            self._wake.set()

    def start(self) -> None:
        """Write lines from now on."""
        # A daemon: a pipe that nobody reads must not keep the process from ending.
        self._thread = threading.Thread(target=self._write, name="pymicro-access-log", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, for a second at most. May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ending.set()
            self._wake.set()
            await asyncio.to_thread(thread.join, LAST)

    def _write(self) -> None:
        while True:
            self._wake.wait()
            self._ending.wait(GATHER)
            ending = self._ending.is_set()
            self._wake.clear()
            self._awake = False
            while self._lines:
                _say(self._lines.popleft())
            if (dropped := self._dropped - self._said) > 0:
                self._said += dropped
                text = "access_log: %d calls have no line, since more ended than could be written"
                log.warning(text, dropped)
            if ending:
                return


def _say(line: _Line) -> None:
    seconds = f"{line.seconds * 1e3:.1f} ms"
    sizes = "".join(
        f", {size} B {way}" for size, way in ((line.received, "in"), (line.sent, "out")) if size is not None
    )
    caller = f" ({line.caller})" if line.caller else ""
    trace = f", trace {line.trace}" if line.trace else ""
    status = STATUSES[line.code]
    record = log.makeRecord(
        *(log.name, logging.INFO, __file__, 0),
        "%s %s in %s from %s%s%s%s",
        (line.path, status, seconds, line.peer, caller, sizes, trace),
        None,
        extra={
            "method": line.path.removeprefix("/"),
            "status": status,
            "ms": round(line.seconds * 1e3, 3),
            "peer": line.peer,
            "request_bytes": line.received,
            "response_bytes": line.sent,
            "trace_id": line.trace or None,
            **({"caller": line.caller} if line.caller else {}),
        },
    )
    # The line is about the moment in which the call ended, not about that in which it was written.
    record.created = line.moment
    record.msecs = line.moment % 1 * 1e3
    try:
        log.handle(record)
    except Exception:  # of a handler that the program has brought; the others must not miss their lines
        logger("pymicro.server").exception("a line of the access log could not be written")


def _texts(metadata: Iterable[Pair]) -> dict[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}
