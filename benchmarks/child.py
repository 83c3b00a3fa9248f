"""A fresh process that is looked at: `python -m benchmarks.child import STATEMENT`, or `hold KIND ADDRESS…`.

It imports next to nothing before it looks, so that what is counted is what the
statement brings in.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time


def resident_mb() -> float:
    """Resident memory of this process now, in MB (`ru_maxrss` would count the parent's peak too)."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except FileNotFoundError:
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
        return int(shown.stdout) * 1024 / 1e6


def importing(statement: str) -> None:
    """Print the milliseconds and the MB of an import statement."""
    code = compile(statement, "<statement>", "exec")
    memory, begun = resident_mb(), time.perf_counter()
    exec(code, {})
    took = time.perf_counter() - begun
    print(took * 1e3, resident_mb() - memory)


async def hold(kind: str, addresses: list[str]) -> None:
    """Print the MB that a client connected to all of `addresses` adds to its imports."""
    from benchmarks.calls import CHANNELS

    if kind.startswith("pymicro"):
        from pymicro import Client  # noqa: F401  loaded lazily: not to be counted below
    if kind.startswith("pymicro") and kind.endswith("-tls"):
        import cryptography.x509  # noqa: F401
    gc.collect()
    before = resident_mb()
    async with CHANNELS[kind](addresses):
        gc.collect()
        print(resident_mb() - before)


def main() -> None:
    what, subject, *rest = sys.argv[1:]
    if what == "import":
        importing(subject)
    else:
        import asyncio

        asyncio.run(hold(subject, rest))


if __name__ == "__main__":
    main()
