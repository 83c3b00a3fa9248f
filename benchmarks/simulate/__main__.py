"""`python -m benchmarks.simulate [SCENARIO…] [--quick] [--plots FOLDER] [--write]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.simulate.plots import save
from benchmarks.simulate.results import write_into
from benchmarks.simulate.scenarios import SCENARIOS

_HERE = Path(__file__).parent


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all if none"
    )
    parser.add_argument("--quick", action="store_true", help="tiny runs: do they work at all")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the pictures there")
    parser.add_argument(
        "--write", action="store_true", help="write tables and pictures into benchmarks/simulate"
    )
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in SCENARIOS]:
        parser.error(f"unknown scenario {unknown[0]!r} (known: {', '.join(SCENARIOS)})")
    if arguments.write and arguments.quick:
        parser.error("--write wants the whole run, not the quick one")
    if arguments.write and arguments.plots is None:
        arguments.plots = _HERE / "plots"
    if arguments.plots is not None and find_spec("matplotlib") is None:
        parser.error("pictures need matplotlib: pip install --group bench")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    begun = time.monotonic()
    for name in arguments.names or SCENARIOS:
        since = time.monotonic()
        result = SCENARIOS[name](arguments.quick)
        print(f"## {name} ({time.monotonic() - since:.1f} s)\n")
        for table in result.tables:
            print(f"{table}\n", flush=True)
        if arguments.plots is not None:
            arguments.plots.mkdir(parents=True, exist_ok=True)
            save(result, arguments.plots / f"{name}.png")
        if arguments.write:
            write_into(_HERE / "README.md", name, result)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
