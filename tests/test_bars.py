"""Each bar has somebody who measures it, and the table shows who did."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent

import pytest

from tests import bars
from tests.bars import ROWS, Measured, Row, table
from tests.processes import Processes

ROOT = Path(__file__).parent.parent
COMMANDS = (bars.BENCH, bars.BENCH_CLUSTER)


def constants() -> dict[Row, str]:
    """The rows by the names that tests know them by."""
    return {row: name for name, row in vars(bars).items() if isinstance(row, Row)}


def source_of(test: str) -> str:
    """The text of a test, `file::function`; empty if it is not there."""
    file, _, name = test.partition("::")
    path = ROOT / file
    if not path.exists():
        return ""
    text = path.read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return ast.get_source_segment(text, node) or ""
    return ""


def problems(rows: Iterable[Row]) -> list[str]:
    """Rows that nobody fills."""
    names = constants()
    makefile = (ROOT / "Makefile").read_text()
    wrong = []
    for row in rows:
        if not row.filled_by:
            wrong.append(f"{row.what}: nobody measures it")
        for who in row.filled_by:
            if who in COMMANDS:
                if f"\n{who.removeprefix('make ')}:" not in makefile:
                    wrong.append(f"{row.what}: there is no {who}")
            elif not (source := source_of(who)):
                wrong.append(f"{row.what}: there is no {who}")
            elif f"bars.met({names.get(row, row.what)}," not in source.replace("\n", "").replace(" ", ""):
                wrong.append(f"{row.what}: {who} does not measure it")
    return wrong


def test_every_bar_has_somebody_who_measures_it() -> None:
    assert set(constants()) == set(ROWS)
    assert problems(ROWS) == []


@pytest.mark.parametrize(
    ("filled_by", "said"),
    [
        ((), "nobody measures it"),
        (("make tea",), "there is no make tea"),
        (("tests/test_bars.py::test_nowhere",), "there is no tests/test_bars.py::test_nowhere"),
        (("tests/nowhere.py::test_it",), "there is no tests/nowhere.py::test_it"),
        (
            ("tests/test_bars.py::test_every_bar_has_somebody_who_measures_it",),
            "does not measure it",
        ),
    ],
)
def test_a_bar_that_nobody_measures_is_noticed(filled_by: tuple[str, ...], said: str) -> None:
    assert said in problems([Row("calls lost", "0", filled_by)])[0]


def test_the_table_shows_every_row_measured_or_not() -> None:
    lost, late, none = Row("calls lost", "0", ()), Row("calls late", "≤ 1 %", ()), Row("c", "1", ("x",))
    lines = table(
        [Measured(late, "0.5 %", True, "test_late"), Measured(lost, "3", False, "test_lost")],
        [lost, none, late],
    )
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells == [
        ["what", "bar", "measured", "by"],
        ["calls lost", "0", "3", "MISSED", "test_lost"],
        ["calls late", "≤ 1 %", "0.5 %", "met", "test_late"],
        ["c", "1", "not in this run", "x"],
    ]
    assert len({line.index(where) for line, where in zip(lines[1:3], ("MISSED", "met"), strict=True)}) == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_figures_reach_the_table_wherever_their_tests_run(
    workers: str, tmp_path: Path, processes: Processes
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nmarkers = alone\n")
    (tmp_path / "conftest.py").write_text("from tests.conftest import bars, pytest_terminal_summary\n")
    (tmp_path / "test_it.py").write_text(
        dedent("""
            from tests.bars import CHANNELS, RESTARTED

            def test_good(bars):
                bars.met(CHANNELS, "4.0 MB", True)

            def test_bad(bars):
                bars.met(RESTARTED, "7 s", False)
                bars.met(RESTARTED, "3 s", True)
                raise AssertionError
        """)
    )
    run = processes.python(
        "-m", "pytest", "-n", workers, "-p", "no:cacheprovider", cwd=tmp_path, PYTHONPATH=str(ROOT)
    )
    assert run.wait() == 1, run.report()
    shown = [
        line.split("  ") for line in run.stdout if line.startswith(("10,000 channels", "node restarted"))
    ]
    assert [[cell.strip() for cell in cells if cell.strip()][2:] for cells in shown] == [
        ["7 s", "MISSED", "test_bad"],
        ["3 s", "met", "test_bad"],
        ["4.0 MB", "met", "test_good"],
    ]
