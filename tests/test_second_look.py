"""A test that failed once gets a second look where that is asked for, and what fails again stays red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
HERE = Path(__file__).parents[1]
CONFTEST = """
from tests.second_look import register

def pytest_configure(config):
    register(config)
"""
# Fails in the first so many runs.
FAILS = """
from pathlib import Path

def fails(times, name="runs"):
    runs = Path(__file__).with_name(name)
    before = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (before + 1))
    assert before >= times, f"run {before}"
"""


@pytest.fixture(params=[(), ("-n", "2")], ids=["one process", "two"])
def looked(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """Runs pytest over a module, with a second look or without; its status, what it said, who is unsteady."""

    def run(tests: str, *, second: bool = True) -> tuple[int, str, str]:
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_it.py").write_text(FAILS + tests)
        unsteady = tmp_path / "new" / "unsteady"
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("UNSTEADY", None)
        if second:
            environment["UNSTEADY"] = str(unsteady)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *request.param, "test_it.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout, unsteady.read_text() if unsteady.exists() else ""

    return run


def test_what_fails_once_is_told_and_the_run_is_green(looked) -> None:  # type: ignore[no-untyped-def]
    status, said, unsteady = looked("def test_once(): fails(1)\ndef test_other(): pass\n")
    assert status == 0
    assert unsteady == "test_it.py::test_once: failed once, then passed 3 times by itself\n"
    assert unsteady in said
    assert "run 0" in said


def test_what_fails_again_is_red(looked) -> None:  # type: ignore[no-untyped-def]
    status, said, unsteady = looked("def test_thrice(): fails(3)\n")
    assert (status, unsteady) == (1, "")
    assert "test_it.py::test_thrice: failed again by itself, the 1. time" in said


def test_what_fails_now_and_then_is_red(looked) -> None:  # type: ignore[no-untyped-def]
    odd = "assert len(Path(__file__).with_name('runs').read_text()) not in (1, 3)"
    status, said, unsteady = looked(f"def test_odd(): fails(0); {odd}\n")
    assert (status, unsteady) == (1, "")
    assert "test_it.py::test_odd: failed again by itself, the 2. time" in said


def test_of_two_both_have_to_pass(looked) -> None:  # type: ignore[no-untyped-def]
    status, said, unsteady = looked("def test_a(): fails(1)\ndef test_b(): assert False\n")
    assert (status, unsteady) == (1, "")
    assert "test_it.py::test_b: failed again by itself, the 1. time" in said


def test_a_fixture_that_fails_is_looked_at_too(looked) -> None:  # type: ignore[no-untyped-def]
    fixture = "import pytest\n@pytest.fixture\ndef odd():\n    yield\n    fails(1)\n"
    status, _, unsteady = looked(fixture + "def test_it(odd): pass\n")
    assert status == 0
    assert unsteady.startswith("test_it.py::test_it: failed once")


@pytest.mark.parametrize(
    "tests",
    [
        pytest.param("".join(f"def test_{n}(): fails(1, 'r{n}')\n" for n in range(3)), id="three"),
        pytest.param("def test_a(): fails(1)\nimport os\ndef test_b(): os._exit(3)\n", id="a crash"),
        pytest.param("import nothing_of_that_name\n", id="not collected"),
    ],
)
def test_what_is_no_accident_gets_none(looked, tests: str) -> None:  # type: ignore[no-untyped-def]
    status, said, unsteady = looked(tests)
    assert (status != 0, unsteady) == (True, "")
    assert "second look" not in said


def test_nobody_gets_one_who_does_not_ask(looked) -> None:  # type: ignore[no-untyped-def]
    status, said, _ = looked("def test_once(): fails(1)\n", second=False)
    assert status == 1
    assert "second look" not in said
