"""What went over each transport in the tests of the two seams, for the table at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from pymicro.calling.call.attempts import Attempts
from pymicro.calling.call.conducted import Conducted

__all__ = ["SEAM", "counted", "over_transports", "summary"]

SEAM = "seam"


def over_transports(metafunc: pytest.Metafunc) -> None:
    """Have a test run over each transport (`fast` if it is built); one marked `grpc_only` over grpc.aio's."""
    # What goes over the network in memory is the same on every Python.
    memory = pytest.param("memory", marks=pytest.mark.once)
    fast = ["fast"] if find_spec("pymicro_fast") else []
    alone = metafunc.definition.get_closest_marker("grpc_only") is not None
    metafunc.parametrize("transport", ["grpc"] if alone else ["grpc", memory, *fast], indirect=True)


def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Count the calls of a test by shape, and the chains of interceptors they went through."""
    calls: Counter[str] = Counter()
    chains: set[str] = set()
    begin, conduct = Attempts.begin, Conducted.begin

    def begun(state: Any, *arguments: Any) -> None:
        calls[state.called.shape.value] += 1
        begin(state, *arguments)

    def conducted(state: Any, *arguments: Any) -> None:
        names: list[str] = []
        for layer in state._layers:
            names += ["ours"] * len(layer) if isinstance(layer, tuple) else [type(layer).__name__]
        chains.add(" ".join(names))
        conduct(state, *arguments)

    monkeypatch.setattr(Attempts, "begin", begun)
    monkeypatch.setattr(Conducted, "begin", conducted)
    yield
    request.node.user_properties.append((SEAM, [name, dict(calls), sorted(chains)]))


def summary(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Lines for people; none if no test of a seam ran."""
    tests: Counter[str] = Counter()
    calls: dict[str, Counter[str]] = {}
    chains: dict[str, set[str]] = {}
    for report in reports:
        for key, value in report.user_properties:
            if key == SEAM:
                name, made, through = value  # type: ignore[misc]
                tests[name] += 1
                calls.setdefault(name, Counter()).update(made)
                chains.setdefault(name, set()).update(through)
    lines = []
    for name in sorted(tests):
        line = f"{name}: {tests[name]} tests"
        if calls[name]:
            shapes = ", ".join(f"{count:,} {shape}" for shape, count in sorted(calls[name].items()))
            line += f", {calls[name].total():,} calls of ours ({shapes})"
            line += f", {len(chains[name])} chains of interceptors"
        lines.append(line)
    return lines
