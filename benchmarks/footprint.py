"""What importing pymicro costs, and the memory of a client; each figure from a fresh process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import median

from benchmarks.figures import Figure, Row
from benchmarks.processes import ServerProcess, run_python
from benchmarks.rounds import Settings

__all__ = ["imports", "memory"]

BASE = "import grpc.aio"
SUBJECTS = ("import pymicro", "from pymicro import Client", "from pymicro import Service")
NODES = (10, 100)


async def imports(settings: Settings) -> AsyncIterator[list[Row]]:
    took: dict[str, list[float]] = {statement: [] for statement in (BASE, *SUBJECTS)}
    grew: dict[str, list[float]] = {statement: [] for statement in (BASE, *SUBJECTS)}
    run_python("-m", "benchmarks.child", "import", "; ".join(SUBJECTS))  # so that every .pyc is there
    for _ in range(settings.rounds):
        for statement in took:
            milliseconds, mb = run_python("-m", "benchmarks.child", "import", statement).split()
            took[statement].append(float(milliseconds))
            grew[statement].append(float(mb))
    for statement in SUBJECTS:
        ratios = [ours / base for ours, base in zip(took[statement], took[BASE], strict=True)]
        detail = f"{median(took[statement]):.1f} against {median(took[BASE]):.1f} ms"
        mb = f"{BASE}: {median(grew[BASE]):.1f} MB"
        yield [
            Row("import", f"`{statement}` ÷ `{BASE}`, clock", Figure.of(ratios), "", None, detail),
            Row("import", f"`{statement}`, memory", Figure.of(grew[statement]), "MB", None, mb),
        ]


async def memory(settings: Settings) -> AsyncIterator[list[Row]]:
    # Ten processes: memory hardly scatters.
    rounds = min(settings.rounds, 10)
    for nodes in NODES:
        held: dict[str, list[float]] = {"pymicro": [], "bare": []}
        with ServerProcess("bare", ports=nodes, loop=settings.loop) as process:
            for _ in range(rounds):
                for kind, found in held.items():
                    found.append(
                        float(run_python("-m", "benchmarks.child", "hold", kind, *process.addresses))
                    )
        detail = f"grpc-core's round_robin: {median(held['bare']):.1f} MB"
        what = f"client connected to {nodes} nodes, over its imports"
        yield [Row("memory", what, Figure.of(held["pymicro"]), "MB", None, detail)]
