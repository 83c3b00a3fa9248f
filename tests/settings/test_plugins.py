"""Other people's plug-ins: picked up by name, and what is said of those that fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment

PLUGIN = """
raise_on_import = {broken}
if raise_on_import:
    raise RuntimeError("no licence found")

from pymicro.base.errors import PluginError
from pymicro.nodes.node import Node, NodeSet
import asyncio

class OneNode:
    name, drain_delay = "one", 0.0
    def __init__(self, config): self.config = config
    async def __aenter__(self): return self
    async def __aexit__(self, *exc): pass
    def describe(self): return "registry one"
    def advertised_host(self): return "127.0.0.1"
    async def register(self, node): pass
    async def deregister(self, node): pass
    async def services(self): return ["it"]
    async def watch(self, service):
        yield NodeSet.of([Node("the-one", "127.0.0.1:1", service, "3")])
        await asyncio.Event().wait()

def lacking(config):
    raise PluginError("registry 'lacking' needs the package x: pip install x")

nothing = 7
"""

POINTS = """[pymicro.registries]
one = pymicro_one:OneNode
lacking = pymicro_one:lacking
nothing = pymicro_one:nothing
gone = pymicro_one:Gone
local = pymicro_one:OneNode
"""


@pytest.fixture
def pymicro(tmp_path: Path) -> object:
    """Runs `pymicro …` beside an installed package with plug-ins."""
    info = tmp_path / "pymicro_one-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pymicro-one\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)

    def run(*argv: str, broken: bool = False) -> subprocess.CompletedProcess[str]:
        (tmp_path / "pymicro_one.py").write_text(PLUGIN.format(broken=broken))
        environment = clean_environment(PYTHONPATH=str(tmp_path), MICRO_REGISTRY_ADDRESS=str(tmp_path / "r"))
        return subprocess.run(
            [sys.executable, "-m", "pymicro", *argv],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_third_partys_registry_is_chosen_by_its_name(pymicro: object) -> None:
    found = pymicro("nodes", "it", "--registry", "one")  # type: ignore[operator]
    assert found.returncode == 0, found.stderr
    assert "the-one" in found.stdout


def test_one_cannot_take_the_place_of_a_built_in_one(pymicro: object) -> None:
    found = pymicro("nodes", "it", "--registry", "local")  # type: ignore[operator]
    assert found.returncode == 1, found.stderr
    assert "the-one" not in found.stdout


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("one", True, ["one", "pymicro-one 1.0", "RuntimeError", "no licence found"]),
        ("lacking", False, ["lacking", "pip install x"]),
        ("nothing", False, ["nothing", "7"]),
        ("gone", False, ["gone", "Gone"]),
        ("oen", False, ["oen", "known", "local", "did you mean 'one'"]),
    ],
)
def test_one_that_does_not_load_gets_one_message_and_2(
    pymicro: object, name: str, broken: bool, words: list[str]
) -> None:
    failed = pymicro("nodes", "it", "--registry", name, broken=broken)  # type: ignore[operator]
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    for word in words:
        assert word in failed.stderr
