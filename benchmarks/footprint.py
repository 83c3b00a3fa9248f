"""What importing pymicro costs, and the memory of a client; each figure from a fresh process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from statistics import median

from benchmarks.certificates import certified
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
    for nodes in NODES:
        ours, bare = _held(settings, nodes, "pymicro", "bare")
        what = f"client connected to {nodes} nodes, over its imports"
        yield [Row("memory", what, Figure.of(ours), "MB", None, _behind(bare))]
    transports = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]
    with certified():
        for transport in transports:
            kind = "pymicro-tls" if transport == "grpc" else "pymicro-fast-tls"
            ours, bare = _held(settings, NODES[-1], kind, "bare-tls")
            what = f"client connected to {NODES[-1]} nodes with mTLS over {transport}, over its imports"
            yield [Row("memory", what, Figure.of(ours), "MB", None, _behind(bare))]


def _held(settings: Settings, nodes: int, *kinds: str) -> list[list[float]]:
    """What clients of these kinds hold, each measured in some processes of its own."""
    held: dict[str, list[float]] = {kind: [] for kind in kinds}
    server = "bare-tls" if kinds[-1] == "bare-tls" else "bare"
    with ServerProcess(server, ports=nodes, loop=settings.loop) as process:
        # Ten processes: memory hardly scatters.
        for _ in range(min(settings.rounds, 10)):
            for kind, found in held.items():
                found.append(float(run_python("-m", "benchmarks.child", "hold", kind, *process.addresses)))
    return list(held.values())


def _behind(bare: list[float]) -> str:
    return f"grpc-core's round_robin: {median(bare):.1f} MB"
