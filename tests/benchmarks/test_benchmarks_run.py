from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Rows of each benchmark.
ROWS = {
    "control": 8,
    "unary": 4,
    "ten-nodes": 4,
    "server": 4,
    "streams": 12,
    "pick": 12,
    "evenness": 12,
    "import": 6,
    "memory": 2,
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def table(output: str) -> list[list[str]]:
    lines = [line for line in output.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.once
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_runs_and_prints_all_its_rows(name: str, tmp_path: Path) -> None:
    done = bench(name, "--quick", "--json", str(tmp_path / "raw.json"))

    assert (done.returncode, done.stderr) == (0, "")
    rows = table(done.stdout)
    assert [row[0] for row in rows] == [name] * ROWS[name]
    assert len({row[1] for row in rows}) == ROWS[name]
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw["machine"]["Python"].startswith("{}.{}".format(*sys.version_info))
    assert [row["what"] for row in raw["rows"]] == [row[1] for row in rows]
    for row in raw["rows"]:
        figure = row["figure"]
        assert len(figure["values"]) == 2
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
        no_bar = name in ("import", "memory") or "one message" in row["what"]
        no_bar = no_bar or (name == "evenness" and row["what"].startswith("random"))
        assert (row["met"] == "-") == no_bar


def test_no_name_means_all_of_them() -> None:
    listed = bench("--help").stdout
    assert "all if none" in listed
    assert all(name in listed for name in ROWS)


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    done = bench("urany")
    assert done.returncode == 2
    assert "unknown benchmark 'urany' (known: control, unary, ten-nodes" in done.stderr
