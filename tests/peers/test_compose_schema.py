"""The compose files of docs/compose.md, against the schema of the Compose Specification."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import Page

pytestmark = pytest.mark.peers

FILES = {name: text for name, text in Page("docs/compose.md").files().items() if "compose" in name}


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    command = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file))
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    done = checked(tmp_path / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_knows_what_it_speaks_of(tmp_path: Path) -> None:
    text = FILES["compose.yaml"].replace("stop_grace_period", "stop_grace")
    (tmp_path / "compose.yaml").write_text(text)
    done = checked(tmp_path / "compose.yaml")
    assert done.returncode == 1
    assert "stop_grace" in done.stdout
