"""`python -m benchmarks.cluster [NAME…] [--quick] [--json FILE]`: discovery on a real API server.

Started by `make bench-cluster`, which builds the control plane first.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import report
from benchmarks.cluster import calls, cut, hour, idle, measures, names
from benchmarks.cluster.costs import Costs, table
from benchmarks.cluster.pods import Pods
from benchmarks.figures import Row
from benchmarks.rounds import Settings
from tests.cluster.plane import ControlPlane

KINDS = ("pymicro", "kubernetes_asyncio", "informer")
NAMES = ("propagation", "calls", "names", "10k", "idle", "cut", "hour")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none")
    parser.add_argument("--quick", action="store_true", help="few pods and rounds: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]!r} (known: {', '.join(NAMES)})")
    return arguments


def _measure(name: str, pods: Pods, quick: bool) -> AsyncIterator[list[Row]]:
    if name == "propagation":
        size = {"count": 50, "changes": 20} if quick else {}
        return measures.propagation(pods, KINDS, **size)
    if name == "calls":
        size = {"count": 6, "changes": 4} if quick else {}
        return calls.last_calls(pods, **size)
    if name == "names":
        return names.through_names(age=3.0) if quick else names.through_names()
    if name == "cut":
        return cut.cut(pods, hours=1, seconds=350.0) if quick else cut.cut(pods, hours=10)
    if name == "idle":
        return idle.idle(pods, seconds=6.0 if quick else 60.0)
    if quick:
        return measures.ten_thousand(pods, KINDS, count=200, rounds=2, seconds=4.0)
    return measures.ten_thousand(pods, KINDS)


async def _run(arguments: argparse.Namespace, plane: ControlPlane) -> tuple[dict[str, str], list[Row]]:
    about = report.machine(Settings())
    del about["rounds"]
    for package in ("kubernetes_asyncio", "kubernetes", "aiohttp"):
        try:
            about["packages"] += f", {package} {version(package)}"
        except PackageNotFoundError as exc:
            raise SystemExit(f"{package} is not installed: `make bench-cluster` does it") from exc
    about["API server"] = plane.api.get("/version")["gitVersion"]
    print("\n".join(f"{name}: {text}" for name, text in about.items()), end="\n\n")
    print(report.HEADER, flush=True)
    rows = []
    for name in arguments.names or NAMES:
        headers = {"Authorization": f"Bearer {plane.token}"}
        namespace = await asyncio.to_thread(plane.namespace)
        costs: list[Costs] = []
        async with Pods(plane.url, headers, plane.kubeconfig, namespace) as pods:
            if name == "hour":
                places = [namespace, await asyncio.to_thread(plane.namespace)]
                size = {"seconds": 10.0, "many": 2} if arguments.quick else {"seconds": 60.0, "many": 10}
                measured = hour.hour(pods, places, found=costs, **size)
            else:
                measured = _measure(name, pods, arguments.quick)
            async for found in measured:
                for row in found:
                    print(report.line(row), flush=True)
                    rows.append(row)
        for one in costs:
            print(f"\n{table(one)}\n")
    return about, rows


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    # No controllers: the pods are ours, and nobody else shall touch them.
    with ControlPlane(controllers=()) as plane:
        about, rows = asyncio.run(_run(arguments, plane))
    if arguments.json:
        report.write_json(arguments.json, about, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
