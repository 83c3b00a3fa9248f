"""Helm and the chart of deploy/helm, for tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT

__all__ = ["CHART", "Helm"]

CHART = ROOT / "deploy/helm/pymicro-service"

Values = Mapping[str, Any]
Documents = dict[tuple[str, str], dict[str, Any]]


class Helm:
    """The program, as one who has never used it here before.

    Args:
        program: Its path.
        folder: Where its files go; made if need be.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def run(
        self, *arguments: str, values: Values | None = None, kubeconfig: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run it; with `values` as a file of values from standard input.

        Raises:
            AssertionError: It failed, and `check` is true.
        """
        homes = {
            f"HELM_{what}_HOME": str(self._folder / what.lower()) for what in ("CACHE", "CONFIG", "DATA")
        }
        done = subprocess.run(
            [self._program, *arguments, *(() if values is None else ("--values", "-"))],
            # Without a cluster none is asked by accident.
            env={**os.environ, **homes, "KUBECONFIG": kubeconfig or os.devnull},
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120.0,
        )
        assert done.returncode == 0 or not check, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done

    def template(self, values: Values, *, release: str = "greeter") -> str:
        """What the chart makes of these values, as YAML."""
        return self.run("template", release, str(CHART), values=values).stdout

    def documents(self, values: Values, *, release: str = "greeter") -> Documents:
        """The same, by kind and name."""
        found = list(yaml.safe_load_all(self.template(values, release=release)))
        named = {(each["kind"], each["metadata"]["name"]): each for each in found if each}
        assert len(named) == len([each for each in found if each])
        return named
