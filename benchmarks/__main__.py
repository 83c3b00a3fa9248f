"""`python -m benchmarks [NAME…] [--rounds N] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import calls, footprint, instructions, picks, report, sync, tls
from benchmarks.figures import Row
from benchmarks.loops import LOOPS, run
from benchmarks.processes import go_peer
from benchmarks.rounds import Settings

BENCHMARKS = {
    "control": calls.control,
    "unary": calls.unary_calls,
    "ten-nodes": calls.ten_nodes,
    "server": calls.server,
    "fast": calls.fast,
    "streams": calls.streams,
    "intercept": calls.interceptors,
    "sync": sync.sync,
    "tls": tls.tls,
    "instructions": instructions.instructions,
    "telemetry": instructions.telemetry,
    "pick": picks.picks,
    "evenness": picks.evenness,
    "import": footprint.imports,
    "memory": footprint.memory,
}
# The rest knows no event loop, or always the same.
ON_A_LOOP = (
    *("control", "unary", "ten-nodes", "server", "fast", "streams", "intercept", "sync", "tls"),
    "instructions",
    "telemetry",
)
AGAINST_A_PEER = (*ON_A_LOOP, "memory")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none")
    parser.add_argument("--rounds", type=int, default=80, help="rounds of each benchmark (default 80)")
    parser.add_argument(
        "--seconds", type=float, default=0.08, help="length of a quarter round (default 0.08)"
    )
    parser.add_argument(
        "--loop", choices=LOOPS, action="append", help="event loop of Python's processes; both if not given"
    )
    parser.add_argument(
        "--peer", choices=("go", "python"), default="go", help="what the other end of calls is (default go)"
    )
    parser.add_argument("--quick", action="store_true", help="two tiny rounds: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's value there")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r} (known: {', '.join(BENCHMARKS)})")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be more than 0")
    return arguments


def _built() -> list[str]:
    """All benchmarks, without the one of transport fast where that is not built (`make fast`)."""
    return [name for name in BENCHMARKS if name != "fast" or find_spec("pymicro_fast")]


def _settings(arguments: argparse.Namespace) -> Settings:
    go = arguments.peer == "go"
    if arguments.quick:
        return Settings(rounds=2, seconds=0.01, fresh=2, go=go)
    return Settings(rounds=arguments.rounds, seconds=arguments.seconds, go=go)


def _default_settings_only() -> None:
    """Take away what would change pymicro's defaults, or lead a bare channel to a proxy."""
    for name in list(os.environ):
        if name.startswith("MICRO_") or name.lower() in (
            "http_proxy",
            "https_proxy",
            "grpc_proxy",
            "all_proxy",
        ):
            del os.environ[name]


async def _measure(name: str, settings: Settings, rows: list[Row]) -> None:
    async for found in BENCHMARKS[name](settings):
        for row in found:
            print(report.line(row), flush=True)
            rows.append(row)


def main(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    names, loops = arguments.names or _built(), arguments.loop or LOOPS
    if settings.go and set(names) & set(AGAINST_A_PEER):
        go_peer()  # else it would be missed in the middle; so would valgrind
    if {"instructions", "telemetry"} & set(names):
        instructions.need(settings)
    about = report.machine(settings)
    print("\n".join(f"{name}: {text}" for name, text in about.items()), end="\n\n")
    print(report.HEADER, flush=True)
    begun = time.monotonic()
    rows: list[Row] = []
    for name in names:
        for loop in loops if name in ON_A_LOOP else loops[:1]:
            run(_measure(name, replace(settings, loop=loop), rows), loop)
    missed = sum(row.verdict.startswith("missed") for row in rows)
    held = sum(row.bar is not None for row in rows)
    bars = f"{held - missed} of {held} bars met, " if held else ""
    print(f"\n{bars}{time.monotonic() - begun:.0f} s")
    if arguments.json:
        report.write_json(arguments.json, about, rows)


if __name__ == "__main__":
    _default_settings_only()
    main(_arguments(sys.argv[1:]))
