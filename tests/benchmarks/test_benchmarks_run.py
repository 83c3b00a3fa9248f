from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Transports that are there.
TRANSPORTS = 2 if find_spec("pymicro_fast") else 1

# Rows of each benchmark; calls are measured on both event loops.
ROWS = {
    "control": 2 * 8,
    "unary": 2 * 4,
    "ten-nodes": 2 * 4,
    "server": 2 * 4,
    "streams": 2 * 12,
    "intercept": 2 * 8,
    "sync": 2 * 8 * TRANSPORTS,
    "tls": 2 * 12 * TRANSPORTS,
    "pick": 12,
    "evenness": 12,
    "import": 6,
    "memory": 2 + TRANSPORTS,
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
    # `make test` has Python only; tests/peers does it with the Go peer.
    done = bench(name, "--quick", "--peer", "python", "--json", str(tmp_path / "raw.json"))

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
        no_bar = name in ("intercept", "sync", "tls", "import", "memory") or "one message" in row["what"]
        no_bar = no_bar or (name == "evenness" and row["what"].startswith("random"))
        assert (row["met"] == "-") == no_bar


def test_no_name_means_all_of_them() -> None:
    listed = bench("--help").stdout
    assert "all if none" in listed
    assert all(name in listed for name in ROWS)


def test_without_the_go_peer_it_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_PEER", raising=False)
    done = bench("pick", "unary", "--quick")
    assert done.returncode == 1
    assert "run `make bench`" in done.stderr
    assert "--peer python" in done.stderr
    assert table(done.stdout) == []


def test_without_valgrind_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_PEER", "/never/started")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = bench("instructions", "--quick")
    assert done.returncode == 1
    assert "apt-get install valgrind" in done.stderr


def test_a_call_costs_the_slope_between_two_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.instructions import slopes

    # What came before each load's first mark, and two pairs of lengths: 7 a call and 100 each time, then 9.
    counts = [5000, 170, 800, 190, 1000, 6000, 110, 200, 110, 200]
    for number, count in enumerate(counts, start=1):
        (tmp_path / f"counted.{number}").write_text(f"# callgrind format\nevents: Ir\nsummary: {count}\n")

    found = slopes(tmp_path, [10, 100, 10, 100], ["one", "other"])

    assert found == {"one": [7.0, 9.0], "other": [1.0, 1.0]}


def test_a_mark_that_was_missed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.instructions import slopes

    (tmp_path / "counted.1").write_text("summary: 1\n")
    with pytest.raises(RuntimeError, match="wrote 1 counts, and 3 marks were set"):
        slopes(tmp_path, [10, 100], ["one"])


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    done = bench("urany")
    assert done.returncode == 2
    assert "unknown benchmark 'urany' (known: control, unary, ten-nodes" in done.stderr
