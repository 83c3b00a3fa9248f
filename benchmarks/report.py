"""The table of results, the machine's description, and the raw figures as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.rounds import Settings

__all__ = ["HEADER", "line", "machine", "write_json"]

_WIDTHS = (12, 62, 7, 15, 9, 7)


def _cells(*cells: str) -> str:
    return (
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, (*_WIDTHS, 0), strict=True)) + " |"
    )


HEADER = "\n".join(
    [
        _cells("benchmark", "what", "median", "95 % interval", "bar", "met", "behind it"),
        "|" + "|".join("-" * (width + 2) for width in (*_WIDTHS, 9)) + "|",
    ]
)


def _number(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit == "ns" else f"{value:.1f}" if unit else f"{value:.3f}"


def line(row: Row) -> str:
    """One row of the table, in Markdown that also reads well on a terminal."""
    figure, unit = row.figure, row.unit
    spread = f"{_number(figure.low, unit)} – {_number(figure.high, unit)}"
    return _cells(
        row.benchmark,
        row.what,
        f"{_number(figure.median, unit)} {unit}".strip(),
        spread,
        f"{row.bar} {unit}".strip() if row.bar else "-",
        row.verdict,
        row.detail,
    ).rstrip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def machine(settings: Settings) -> dict[str, str]:
    """What the figures depend on, by name."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "packages": ", ".join(
            f"{name} {_installed(name)}" for name in ("grpcio", "protobuf", "uvloop", "pymicro-grpc")
        ),
        "rounds": f"{settings.rounds} of 4 × {settings.seconds:g} s, fresh ends every {settings.fresh}, "
        f"against {'grpc-go 1.76.0' if settings.go else 'bare grpc.aio'}",
    }


def write_json(path: Path, about: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write the description and every row with each round's value."""
    table = [{**asdict(row), "bar": str(row.bar) if row.bar else None, "met": row.verdict} for row in rows]
    path.write_text(json.dumps({"machine": dict(about), "rows": table}, indent=1, ensure_ascii=False) + "\n")
