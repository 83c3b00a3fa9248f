"""Tracebacks in the log begin in the user's own code, unless the fault may be pymicro's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from pymicro.base import tracebacks
from pymicro.base.durations import parse_duration
from pymicro.base.errors import ConfigError
from pymicro.base.tracebacks import format_traceback, show_all_frames
from pymicro.runtime.hooks import run_hook


@pytest.fixture(autouse=True)
def _not_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tests before have asked for: a log at `debug` shows all of them."""
    monkeypatch.setattr(tracebacks, "_all_frames", False)


def _formatted(act: Callable[[], object]) -> str:
    try:
        act()
    except BaseException:
        return format_traceback(*sys.exc_info())
    raise AssertionError("nothing was raised")


def _files(text: str) -> list[str]:
    return [line.split('"')[1].rpartition("/")[2] for line in text.splitlines() if line.startswith("  File ")]


def _broken() -> None:
    raise KeyError("mine")


def _run_hook() -> None:
    asyncio.run(run_hook(lambda service: _broken(), object()))  # type: ignore[arg-type]


def test_frames_of_ours_on_the_way_to_the_users_code_are_left_out() -> None:
    assert _files(_formatted(_run_hook))[-2:] == ["test_tracebacks.py", "test_tracebacks.py"]
    assert "hooks.py" not in _formatted(_run_hook)


def test_what_pymicro_raises_on_purpose_ends_in_the_users_line() -> None:
    def configure() -> None:
        try:
            parse_duration("soon")
        except ValueError as exc:
            raise ConfigError("no") from exc

    text = _formatted(configure)
    # The cause is no error of pymicro's own kind: where it happened may matter.
    assert _files(text) == ["test_tracebacks.py", "durations.py", "test_tracebacks.py", "test_tracebacks.py"]


def test_a_fault_in_pymicro_keeps_all_its_frames() -> None:
    text = _formatted(lambda: parse_duration(None))  # type: ignore[arg-type]
    assert _files(text)[-1] == "durations.py"


def test_debug_shows_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracebacks, "_all_frames", False)
    show_all_frames()
    assert _files(_formatted(_run_hook))[-3:] == ["hooks.py", "test_tracebacks.py", "test_tracebacks.py"]


def test_groups_and_what_is_in_them_are_shortened_too() -> None:
    def group() -> None:
        errors = []
        for _ in range(2):
            try:
                _broken()
            except KeyError as exc:
                errors.append(exc)
        raise ExceptionGroup("both", errors)

    text = _formatted(group)
    assert text.count("KeyError: 'mine'") == 2
