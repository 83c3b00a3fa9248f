"""What was counted, as JSON for `pymicro top`: sums since the start, so that two readings have a rate."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pymicro.base.recorder import ClientMethodRecord, Durations, Recorder, ServerMethodRecord
from pymicro.telemetry.admin import WritePage
from pymicro.telemetry.json_page import Rows, json_page

__all__ = ["FORMAT", "stats_page"]

# Raised by a change that a reader of before would misunderstand.
FORMAT = 1


def stats_page(service: str, recorder: Recorder) -> WritePage:
    """The page `/stats`.

    Durations are seconds. `counts` of a histogram are those within each of `bounds` and above the
    one before, then those above all of them. Statuses are gRPC's numbers.

    Args:
        service: The name of the service; empty for a client that is none.
        recorder: What was counted.
    """

    def make() -> Mapping[str, Any]:
        server = recorder.server
        return {
            "format": FORMAT,
            "service": service,
            "pid": os.getpid(),
            # Of a clock that is never set: rates are differences of this.
            "seconds": time.monotonic(),
            "server": {
                "refused": dict(server.refused),
                "methods": Rows(_served(list(server.methods.items())), keyed=True),
            },
            "client": Rows(
                (
                    (
                        name,
                        {
                            "retry_budget_exhausted": target.unretried,
                            "methods": Rows(_called(list(target.methods.items())), keyed=True),
                        },
                    )
                    for name, target in list(recorder.targets.items())
                ),
                keyed=True,
            ),
        }

    return json_page(make)


def _served(methods: list[tuple[str, ServerMethodRecord]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, record in methods:
        yield path, {"in_flight": record.in_flight, **_ended(record.ended)}


def _called(methods: list[tuple[str, ClientMethodRecord]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, record in methods:
        attempts = sum(durations.count for durations in record.attempts().values())
        yield (
            path,
            {
                "in_flight": record.started - attempts,
                "attempts": record.started,
                **_ended(record.calls()),
            },
        )


def _ended(ended: Mapping[int, Durations]) -> Mapping[str, Any]:
    """How calls ended: how many by status, and how long they took."""
    together: Durations | None = None
    for durations in ended.values():
        together = durations if together is None else together.plus(durations)
    together = together or Durations()
    return {
        "statuses": {str(code): durations.count for code, durations in sorted(ended.items())},
        "seconds": {
            "bounds": list(together.bounds),
            "counts": list(together.counts),
            "total": round(together.total, 6),
        },
    }
