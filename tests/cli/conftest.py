from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_support import Commands


@pytest.fixture
def pymicro(registry_folder: str, tmp_path: Path) -> Commands:
    folder = tmp_path / "work"
    folder.mkdir()
    return Commands(registry_folder, folder)
