"""`scripts/bump_nghttp2.py` takes another nghttp2 only if it is what it says, and writes one file.

With a stand-in for the carrier, which pip takes from a folder.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.processes import ROOT, clean_environment

PKG_INFO = "Metadata-Version: 2.1\nName: ngh2\nVersion: {}\n"
# A backend of its own, so that pip needs no index to look at the distribution.
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import os

def prepare_metadata_for_build_wheel(folder, settings=None):
    os.mkdir(f"{{folder}}/ngh2-{0}.dist-info")
    with open(f"{{folder}}/ngh2-{0}.dist-info/METADATA", "w") as file:
        file.write("Metadata-Version: 2.1\\nName: ngh2\\nVersion: {0}\\n")
    return "ngh2-{0}.dist-info"

def build_wheel(*_):
    raise NotImplementedError
"""
SESSION, HEADER = "int session;\n", "@PACKAGE_VERSION@\n"


def archive(path: Path, root: str, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def library(version: str, session: str = SESSION) -> dict[str, str]:
    return {
        "configure.ac": f"AC_INIT([nghttp2], [{version}], [mail])\n",
        "CMakeLists.txt": f"project(nghttp2 VERSION {version} LANGUAGES C)\n",
        "lib/nghttp2_session.c": session,
        "lib/includes/nghttp2/nghttp2ver.h.in": HEADER,
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with what the script reads, and an index of one folder."""
    for name in ("fast/nghttp2.py", "scripts/bump_nghttp2.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "index").mkdir()
    return tmp_path


def carrier(checkout: Path, release: str, version: str, session: str = SESSION) -> Path:
    inside = {f"vendor/nghttp2/{name}": text for name, text in library(version, session).items()}
    inside |= {
        "PKG-INFO": PKG_INFO.format(release),
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND.format(release),
    }
    return archive(checkout / "index" / f"ngh2-{release}.tar.gz", f"ngh2-{release}", inside)


def bump(checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/bump_nghttp2.py", *map(str, arguments)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout / "index")),
    )


def written(checkout: Path) -> dict[str, str]:
    text = (checkout / "fast/nghttp2.py").read_text()
    return dict(re.findall(r'^(VERSION|CARRIER_VERSION|SHA256) = "([^"]*)"$', text, re.MULTILINE))


def test_version_and_checksum_are_written(checkout: Path) -> None:
    made = carrier(checkout, "9.0.0", "1.99.1")
    theirs = archive(checkout / "nghttp2-1.99.1.tar.gz", "nghttp2-1.99.1", library("1.99.1"))
    done = bump(checkout, "9.0.0", theirs)
    assert done.returncode == 0, done.stderr
    assert written(checkout) == {
        "VERSION": "1.99.1",
        "CARRIER_VERSION": "9.0.0",
        "SHA256": hashlib.sha256(made.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("release", "version", "session", "words"),
    [
        ("9.0.0", "1.2.3", SESSION, "older than"),
        ("9.0.0", "1.99.1", "int other;\n", "has other files: lib/nghttp2_session.c"),
    ],
)
def test_what_it_does_not_believe_it_does_not_write(
    checkout: Path, release: str, version: str, session: str, words: str
) -> None:
    before = written(checkout)
    carrier(checkout, release, version, session)
    theirs = archive(checkout / "theirs.tar.gz", "nghttp2", library(version))
    done = bump(checkout, release, theirs)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert written(checkout) == before


def test_a_release_that_is_not_there_is_told(checkout: Path) -> None:
    done = bump(checkout, "8.8.8")
    assert done.returncode == 1
    assert "pip found no source distribution of ngh2==8.8.8" in done.stderr
    assert "Traceback" not in done.stderr
