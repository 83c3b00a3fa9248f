"""What `pymicro bench` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pymicro.base.printable import shortened
from pymicro.cli.listing import print_table
from pymicro.cli.load import Load, Ran
from pymicro.cli.report import dump, on_terminal, printable, say
from pymicro.cli.tally import Tally
from pymicro.rpc.schema import ProtoMethod

__all__ = ["Report"]

_PERCENTILES: Final = (50, 75, 90, 95, 99, 99.9)
# Characters shown of a peer's message, which may be of any length.
_LONGEST_MESSAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Report:
    """One run, ready to be printed."""

    service: str
    method: ProtoMethod
    load: Load
    tally: Tally
    ran: Ran
    interrupted: bool

    @property
    def all_ok(self) -> bool:
        """Whether there were calls, all of them ended, and all were OK."""
        tally = self.tally
        return bool(tally.calls) and tally.ok == tally.calls and not self.ran.unfinished

    def print_json(self) -> None:
        """One object: indented on a terminal, one line in a pipe."""
        say(dump(self._json(), pretty=on_terminal()))

    def print_text(self) -> None:
        """Figures for a person, in 80 columns."""
        tally, ran = self.tally, self.ran
        until = ", interrupted" if self.interrupted else ""
        say(f"{self.method.path[1:]} of {self.service}: {self.load.describe()}{until}\n")
        say(f"calls      {tally.calls} in {ran.seconds:.2f}s, {self._per_second:.1f}/s")
        if tally.replies != tally.ok:
            say(f"replies    {tally.replies}, {tally.replies / ran.seconds:.1f}/s")
        say(f"OK         {tally.ok} ({_share(tally.ok, tally.calls)})")
        if tally.retries:
            say(f"retries    {tally.retries}")
        if ran.unfinished:
            say(f"unfinished {ran.unfinished}: cancelled at the end")
        if ran.missed:
            say(f"not begun  {ran.missed}: due by the rate, but those before took too long")
        if tally.ok:
            say("")
            _print_figures("latency in ms", self._latency())
        if tally.calls_by_node:
            say("")
            rows = [
                [node["address"], node["version"], str(node["calls"]), f"{node['share']:.1%}"]
                for node in self._nodes()
            ]
            print_table(["NODE", "VERSION", "CALLS", "SHARE"], rows)
            if len(rows) > 1:
                say(f"most / mean: {tally.unevenness:.3f} (1 is even)")
        if tally.failures:
            say("")
            rows = [
                [
                    error["status"],
                    str(error["calls"]),
                    _share(error["calls"], tally.calls),
                    _cut(error["message"]),
                ]
                for error in self._errors()
            ]
            print_table(["STATUS", "CALLS", "SHARE", "FIRST MESSAGE"], rows)

    @property
    def _per_second(self) -> float:
        return self.tally.calls / self.ran.seconds

    def _latency(self) -> dict[str, float]:
        """Latencies in milliseconds."""
        found = self.tally.latencies
        figures = {"min": found.least, "mean": found.mean}
        figures.update((f"p{percent:g}", found.percentile(percent)) for percent in _PERCENTILES)
        figures["max"] = found.most
        return {name: seconds * 1e3 for name, seconds in figures.items()}

    def _nodes(self) -> list[dict[str, Any]]:
        """The nodes, the busiest first."""
        tally = self.tally
        total = tally.calls_by_node.total()
        nodes = sorted(tally.nodes.values(), key=lambda node: (-tally.calls_by_node[node.key], node.key))
        return [
            {
                "id": node.id,
                "address": node.address,
                "version": node.version,
                "calls": tally.calls_by_node[node.key],
                "share": round(tally.calls_by_node[node.key] / total, 4) if total else 0.0,
            }
            for node in nodes
        ]

    def _errors(self) -> list[dict[str, Any]]:
        """The errors, the most frequent first."""
        failures = sorted(self.tally.failures.items(), key=lambda item: -item[1].calls)
        return [
            {"status": status, "calls": found.calls, "message": found.message} for status, found in failures
        ]

    def _json(self) -> dict[str, Any]:
        load, tally, ran = self.load, self.tally, self.ran
        latency = {name: round(value, 4) for name, value in self._latency().items()} if tally.ok else None
        return {
            "service": self.service,
            "method": self.method.path[1:],
            "concurrency": load.at_a_time,
            "rate": load.rate,
            "interrupted": self.interrupted,
            "seconds": round(ran.seconds, 4),
            "calls": tally.calls,
            "calls_per_second": round(self._per_second, 2),
            "ok": tally.ok,
            "retries": tally.retries,
            "replies": tally.replies,
            "unfinished": ran.unfinished,
            "not_begun": ran.missed,
            "latency_ms": latency,
            "errors": self._errors(),
            "nodes": self._nodes(),
            "most_by_mean": None if tally.unevenness is None else round(tally.unevenness, 4),
        }


def _print_figures(title: str, figures: Mapping[str, float]) -> None:
    """Print names above their figures, so that people can compare them."""
    cells = [(name, f"{value:.2f}") for name, value in figures.items()]
    widths = [max(7, len(figure)) for _, figure in cells]
    say(title)
    for row in zip(*cells, strict=True):
        say(" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _cut(message: str) -> str:
    text = printable(message).replace("\n", " ")
    return shortened(text, _LONGEST_MESSAGE)
