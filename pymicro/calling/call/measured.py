"""What a call on the network leaves behind: its times and ends in the metrics, and its span."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AioRpcError

from pymicro.calling.call.end import End
from pymicro.calling.call.state import ENDED, CallState

if TYPE_CHECKING:
    from pymicro.base.recorder import ClientMethodRecord, Durations
    from pymicro.telemetry.tracing import Tracing

__all__ = ["Measured"]

_OK = grpc.StatusCode.OK
_NUMBERS: dict[grpc.StatusCode, int] = {code: code.value[0] for code in grpc.StatusCode}


class Measured(CallState):
    """A call that is counted when it ends, with its attempts.

    Most calls are one attempt that begins with the call: those are counted at once, as such. Of any
    other the attempts are counted apart from the call.

    Attributes:
        code: The code of the last attempt, as it is meant.
        span: Its span, which ends with it; None without tracing.
    """

    code: grpc.StatusCode = _OK
    span: Any = None
    _found: Any = None  # a PickedChannel, from the first attempt on
    _failure: BaseException | None = None  # what ended the call on this side
    _record: ClientMethodRecord | None = None
    _began = 0.0  # a moment of `time.monotonic()`
    _attempted = 0.0  # the same for the present attempt, if it did not begin with the call
    _written = 0  # how many attempts were counted by themselves
    _paused = 0.0  # seconds between attempts
    _first: tuple[int, str, float, int, int] | None = None  # the first attempt, until a second one has ended
    _awaited = False  # whether somebody waits for the one response
    _owed = 0.0  # when it ended, while that is not written down; a moment of `time.monotonic()`

    def finish(self, end: End | None = None) -> None:
        if (self._record is not None or self.span is not None) and self.phase is not ENDED:
            self._owed = monotonic()
            if not self._awaited or self.code is not _OK:  # else it is written down by who awaits it
                if self._unread():
                    self.written_when_read()
                else:
                    self.write_end()
        super().finish(end)

    def _unread(self) -> bool:
        """Whether it ended OK with a response that nobody has tried to read yet."""
        return False

    def written_when_read(self) -> None:
        """Nobody waits for the response: the end is written down when somebody reads it, or can no more."""

    def write_end(self) -> None:
        """Write down how the call ended. A response that cannot be read is not OK, so it was read before."""
        now, self._owed = self._owed, 0.0
        record, span = self._record, self.span
        at_once = self.made == 1 and not (self._attempted or self._written)
        if at_once and self.code is _OK and span is None and record is not None and self._failure is None:
            # As nearly all end, so that nothing is called for it.
            well, seconds = record.once[0], now - self._began
            well.counts[bisect_left(well.bounds, seconds)] += 1
            well.total += seconds
            return
        if self._failure is not None:
            number = _number(self._failure)
        else:
            number = 0 if self.code is _OK else _NUMBERS[self.code]
        seconds = now - self._began
        ended = time_ns() - int((monotonic() - now) * 1e9) if span is not None else 0
        durations = None
        if at_once:
            if record is not None:
                durations = record.once[number]
                durations.add(seconds)
        else:
            durations = self._write_call(number, now, ended)
        if span is not None:
            tracing = self._tracing
            if durations is not None and (ids := tracing.ids_of(span)):
                durations.exemplify(seconds, *ids)
            tracing.end_call(span, number, self._peer, ended)

    @property
    def _tracing(self) -> Tracing:
        tracing = self.called.channel.tracing
        assert tracing is not None, "a span without tracing"
        return tracing

    @property
    def _peer(self) -> str:
        """The address of the last node; empty before the first."""
        return self._found[0].node.address if self._found is not None else ""

    def _write_call(self, number: int, now: float, ended: int) -> Durations | None:
        """Count a call that was not just one attempt, begun at once."""
        record, made = self._record, self.made
        if made:
            self._write_attempt(number, now, alone=made == 1, ended=ended)
        if record is None:
            return None
        durations = (record.several if made else record.without)[number]
        durations.add(now - self._began)
        if made > 1:
            record.retries.add(made - 1)
            if self._paused:
                record.delays.add(self._paused)
        return durations

    def _write_attempt(self, number: int, now: float, *, alone: bool = False, ended: int = 0) -> None:
        """Count an attempt that is not all there is to its call, once; each of several gets a span."""
        if self._written < self.made:
            self._written = self.made
            seconds = now - (self._attempted or self._began)
            if self._record is not None:
                self._record.tries[number].add(seconds)
            if self.span is not None and not alone:
                attempt = (number, self._peer, seconds, self.made, ended or time_ns())
                if self.made == 1:
                    # A second one is meant, and may never begin: no node may be left, or no time.
                    self._first = attempt
                    return
                if self._first is not None:
                    self._tracing.add_attempt(self.span, *self._first)
                    self._first = None
                self._tracing.add_attempt(self.span, *attempt)


def _number(error: BaseException) -> int:
    """The number of the status that this exception means for a call that it ended on this side."""
    if isinstance(error, asyncio.CancelledError):
        code = grpc.StatusCode.CANCELLED
    else:
        code = error.code() if isinstance(error, AioRpcError) else grpc.StatusCode.UNKNOWN
    return _NUMBERS[code]
