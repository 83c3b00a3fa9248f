"""`pymicro gen` over whole trees that other people wrote, fetched by `make test-trees`.

What is refused is refused for what its own file says, or lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import clean_environment
from tests.trees import tree

pytestmark = pytest.mark.trees

FETCHED = Path(os.environ.get("PROTO_TREES", ""))
PYTHON = FETCHED / "python"
MODULES = FETCHED / "node_modules"
XDS = MODULES / "@grpc/grpc-js-xds/deps"

# What may be wrong with a file. The versions of all trees are pinned, and none has more than these.
MISTAKES = re.compile(
    r"Edition \d+ is later than the maximum supported edition"
    r"|the imported \S+ is in no folder of the include path \(-I\)"
    r'|"\S+" is already defined in file'
)


@dataclass(frozen=True)
class Tree:
    """One tree.

    Attributes:
        files: How many protos it has.
        refused: How many of them may be refused.
        following: How many may be left out because they import one of those.
        fetch: Writes its protos below a folder, and returns where names begin.
    """

    files: int
    refused: int
    following: int
    fetch: Callable[[Path], list[Path]]


def _google(to: Path) -> list[Path]:
    return tree.copied([MODULES / "google-proto-files"], to)


def _xds(to: Path) -> list[Path]:
    roots = tree.copied(
        [XDS / name for name in ("envoy-api", "xds", "protoc-gen-validate", "googleapis")], to
    )
    # The package has Envoy's protos, and rules for validation that are older than these.
    shutil.copyfile(PYTHON / "data/validate.proto", roots[2] / "validate/validate.proto")
    return roots


def _common(to: Path) -> list[Path]:
    tree.renamed(PYTHON, to)
    return [to]


def _well_known(to: Path) -> list[Path]:
    tree.renamed(PYTHON / "grpc_tools/_proto", to)
    return [to]


def _rebuilt(to: Path) -> list[Path]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.trees.rebuilt", str(PYTHON), str(to)],
        env=clean_environment(PYTHONPATH=os.pathsep.join([str(PYTHON), os.getcwd()])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [to]


TREES = {
    "google-proto-files": Tree(8051, refused=8, following=1, fetch=_google),
    "grpc-js-xds": Tree(594, refused=51, following=24, fetch=_xds),
    "googleapis-common-protos": Tree(63, refused=0, following=0, fetch=_common),
    "grpcio-tools": Tree(15, refused=0, following=0, fetch=_well_known),
    # Of the generated code of xds-protos, and of grpcio's packages for channelz, health, reflection, testing.
    "grpcio": Tree(772, refused=0, following=0, fetch=_rebuilt),
}


@pytest.mark.parametrize("name", TREES)
def test_every_file_of_a_tree_becomes_code_or_is_refused_for_what_it_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = TREES[name]
    roots = expected.fetch(tmp_path / "protos")
    assert sum(1 for root in roots for _ in root.rglob("*.proto")) == expected.files
    out = tmp_path / "out"
    out.mkdir()
    made = tree.make(roots, out)
    with capsys.disabled():
        print(
            f"\n{name}: {expected.files} files, {len(made.modules)} modules; {len(made.refused)} refused, "
            f"{len(made.following)} import these"
        )
    assert [said for said in made.refused.values() if not MISTAKES.search(said)] == []
    assert len(made.refused) <= expected.refused
    assert len(made.following) <= expected.following
    assert tree.failing_imports(out, made.modules) == []
    assert tree.mypy_errors(out) == []
