"""An engine that is missing, or of another release, is told by both ends in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment

PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pymicro import PymicroError
from pymicro.calling.connections.core import ClientCore
from pymicro.serving.server import Server
from pymicro.settings.config import Config

config = Config().replace("code", transport="fast")
for make in (lambda: Server(config), lambda: ClientCore().equip(config, None, None, None)):
    try:
        make()
    except PymicroError as exc:
        print(f"{type(exc).__name__}: {exc}")
"""


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("INTERFACE = 1\n", "ConfigError: the installed pymicro-fast has interface 1"),
        (None, "PluginError: transport fast needs pymicro-fast: pip install"),
    ],
    ids=["of another release", "missing"],
)
def test_both_ends_say_what_to_install(tmp_path: Path, engine: str | None, words: str) -> None:
    # In front of the one that is installed.
    text = 'raise ModuleNotFoundError("No module", name="pymicro_fast")' if engine is None else engine
    (tmp_path / "pymicro_fast.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(words) for line in lines), lines
