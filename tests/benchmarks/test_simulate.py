"""The simulator does what it says of its nodes, and prints the same figures in each run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once  # virtual time, the same on every Python

ROOT = Path(__file__).parents[2]

# Rows of each scenario's tables.
ROWS = {
    "slow-node": 11,
    "fast-failing": 28,
    "black-hole": 18,
    "pauses": 10,
    "rollout": 4,
    "streams": 6,
    "subsets": 7,
    "outages": 24,
    "many": 5,
}
# The whole run tries more sizes than the quick one.
WHOLE = ROWS | {"subsets": 16}


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmarks are no part of the wheel.
    monkeypatch.syspath_prepend(str(ROOT))


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.simulate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def rows(output: str) -> list[list[str]]:
    """The rows of all tables, without their heads."""
    lines = output.splitlines()
    found = [place for place, line in enumerate(lines) if line.startswith("|--")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for place, line in enumerate(lines)
        if line.startswith("| ") and place + 1 not in found
    ]


@pytest.mark.parametrize("name", ROWS)
def test_a_scenario_runs_and_prints_all_its_rows(name: str) -> None:
    done = simulate(name, "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(done.stdout)) == ROWS[name]


def test_each_run_gives_the_same_figures() -> None:
    names = ("slow-node", "pauses", "outages")
    # Hashes of text are what differs from process to process.
    one, other = (rows(simulate(*names, "--quick", PYTHONHASHSEED=seed).stdout) for seed in ("1", "2"))
    assert one == other
    assert len(one) == sum(ROWS[name] for name in names)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib: `make test-plots`")
def test_every_scenario_draws_its_picture(tmp_path: Path) -> None:
    done = simulate("--quick", "--plots", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in tmp_path.iterdir()} == set(ROWS)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_scenario_lists_the_known_ones() -> None:
    done = simulate("slow-nodes")
    assert done.returncode == 2
    assert "unknown scenario 'slow-nodes' (known: slow-node, fast-failing," in done.stderr


def test_the_readme_has_a_place_and_a_picture_for_each_scenario() -> None:
    folder = ROOT / "benchmarks" / "simulate"
    text = (folder / "README.md").read_text()
    for name in ROWS:
        part = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
        assert len(rows(part)) == WHOLE[name], name
        assert f"](plots/{name}.png)" in part
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000


def test_results_are_written_where_they_belong(tmp_path: Path) -> None:
    from benchmarks.simulate.results import Result, Table, write_into

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- one -->\nold\n<!-- /one -->\nafter\n")
    result = Result([Table("A table", ["a", "b"], [["1", "2"]])], "A picture", lambda figure: None)
    write_into(readme, "one", result)
    write_into(readme, "one", result)
    assert readme.read_text() == (
        "before\n<!-- one -->\n\nA table:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "![A picture](plots/one.png)\n\n<!-- /one -->\nafter\n"
    )
    with pytest.raises(SystemExit, match="no place for the results of two"):
        write_into(readme, "two", result)


def test_it_runs_without_grpc() -> None:
    program = (
        "import sys, benchmarks.simulate.__main__ as m; m.main(['pauses', '--quick'])\n"
        "found = [name for name in sys.modules if name.partition('.')[0] in ('grpc', 'numpy')]\n"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_events_happen_in_order_and_those_of_one_moment_as_they_were_planned() -> None:
    from benchmarks.simulate.world import World

    world, log = World(), list[Any]()

    def note(what: str) -> None:
        log.append((world.now, what))
        if what == "first":
            world.at(0.5, note, "late")  # past: now

    world.at(2.0, note, "second")
    world.at(1.0, note, "first")
    world.at(2.0, note, "third")
    world.at(3.0, note, "never")
    world.run(3.0)
    assert log == [(1.0, "first"), (1.0, "late"), (2.0, "second"), (2.0, "third")]
    assert world.clock() == 3.0


class Attempt:
    def __init__(self, deadline: float = 100.0) -> None:
        self.deadline = deadline
        self.over = False
        self.ended: list[Any] = []

    def end(self, code: int, may_have_run: bool = True) -> None:
        if not self.over:
            self.ended.append((round(self.world.now, 6), code, may_have_run))
        self.over = True

    def time_out(self) -> None:
        if not self.over:
            self.ended.append((round(self.world.now, 6), "timed out"))
        self.over = True

    world: Any = None


def served(count: int, deadline: float = 100.0, mode: str = "SERVES", **options: Any) -> list[Any]:
    """When calls of one second that all begin at 1 s end."""
    from benchmarks.simulate.clients import nodes_of
    from benchmarks.simulate.servers import Mode, Server, constant
    from benchmarks.simulate.world import World

    world = World()
    server = Server(world, nodes_of(1)[0], constant(1.0), **options)
    server.mode = Mode[mode]
    attempts = [Attempt(deadline) for _ in range(count)]
    for attempt in attempts:
        attempt.world = world
        world.at(1.0, server.submit, attempt)
    world.run(1000.0)
    assert server.arrived == count
    return [end for attempt in attempts for end in attempt.ended]


def test_a_server_works_on_so_many_calls_at_a_time_and_the_others_queue() -> None:
    assert served(5, slots=2) == [
        (2.0, 0, True),
        (2.0, 0, True),
        (3.0, 0, True),
        (3.0, 0, True),
        (4.0, 0, True),
    ]


def test_a_queued_call_whose_deadline_has_passed_is_not_worked_on() -> None:
    ends = served(4, deadline=2.5, slots=1)
    # The second is being worked on at 2.5 s; the others never are, or the fourth would end it later.
    assert ends == [(2.0, 0, True), (2.5, "timed out"), (2.5, "timed out"), (2.5, "timed out")]


def test_a_pause_makes_calls_longer_by_as_much_as_they_are_in_it() -> None:
    assert served(1, stands=[(1.5, 1.7)]) == [(2.2, 0, True)]
    assert served(1, stands=[(0.5, 1.2)]) == [(2.2, 0, True)]
    assert served(1, stands=[(0.1, 0.9), (2.0, 5.0)]) == [(2.0, 0, True)]
    assert served(1, stands=[(1.5, 1.7), (2.1, 2.4)]) == [(2.5, 0, True)]


def test_the_ways_to_fail() -> None:
    assert served(1, mode="FAILS") == [(1.001, 13, True)]
    assert served(1, mode="SHEDS") == [(1.001, 8, False)]
    assert served(1, mode="SWALLOWS", deadline=6.0) == [(6.0, "timed out")]


def test_distributions_have_the_median_and_mean_they_say() -> None:
    import random
    from statistics import fmean, median

    from benchmarks.simulate import servers

    rng = random.Random(1)

    def drawn(work: Any) -> list[float]:
        return [work() for _ in range(20_000)]

    assert fmean(drawn(servers.exponential(0.01, rng))) == pytest.approx(0.01, rel=0.03)
    found = sorted(drawn(servers.lognormal(0.01, 0.5, rng)))
    assert median(found) == pytest.approx(0.01, rel=0.03)
    assert found[19_800] == pytest.approx(0.032, rel=0.06)
    assert median(drawn(servers.normal(0.167, 0.005, rng))) == pytest.approx(0.167, rel=0.01)
    stands = servers.pauses(10.0, 0.2, 100_000.0, rng)
    assert len(stands) == pytest.approx(100_000 / 10.2, rel=0.05)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(stands))
