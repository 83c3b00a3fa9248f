"""`scripts/controlplane`, `gomicro` and `python-chroot` build once, whole or not at all, whoever else builds.

With stand-ins for Go and debootstrap.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

# Says when it starts, and ends when it may.
GO = """#!/bin/sh
case "$1" in
env) echo "stand-in"; exit ;;
esac
echo "$GOFLAGS $CGO_ENABLED" >>"$FOLDER/builds"
while [ ! -e "$FOLDER/go-on" ]; do sleep 0.02; done
[ ! -e "$FOLDER/broken" ] || exit 1
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\nbasename "$0"\\n' >"$2"
chmod +x "$2"
"""

DEBOOTSTRAP = """#!/bin/sh
echo "$*" >>"$FOLDER/builds"
while [ ! -e "$FOLDER/go-on" ]; do sleep 0.02; done
[ ! -e "$FOLDER/broken" ] || exit 1
mkdir -p "$4/etc" "$4/run"
"""

# All that the scripts and their stand-ins may use: a Go of the machine is not among them.
TOOLS = [
    "basename",
    "cat",
    "chmod",
    "cut",
    "date",
    "dirname",
    "flock",
    "id",
    "ln",
    "mkdir",
    "mv",
    "rm",
    "sha256sum",
    "sleep",
    "tail",
    "uname",
    "unshare",
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a cluster is tested on Linux")


class Script:
    """Runs a script with a cache and a `go` of this test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._program = str(ROOT / "scripts" / name)
        # How often a whole build calls `go build`: kubectl is a program of its own.
        self.whole = 2 if name == "controlplane" else 1
        self.cache = folder / "cache" / "pymicro"
        self.started: list[subprocess.Popen[str]] = []
        programs = folder / "bin"
        programs.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"no {tool} on PATH"
            (programs / tool).symlink_to(found)
        stand_ins = dict.fromkeys(("ip", "openssl", "setpriv"), "#!/bin/sh\n")
        for name, text in {"go": GO, "debootstrap": DEBOOTSTRAP, **stand_ins}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environ = {
            "PATH": str(programs),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "FOLDER": str(folder),
        }

    def start(self, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self._program],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, **environ: str) -> tuple[int, str, str]:
        process = self.start(**environ)
        output, errors = process.communicate(timeout=30)
        return process.returncode, output, errors

    def go_on(self) -> None:
        (self.folder / "go-on").touch()

    def builds(self) -> int:
        log = self.folder / "builds"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def wait_for_build(self, number: int) -> None:
        deadline = time.monotonic() + 20
        while self.builds() < number:
            assert time.monotonic() < deadline, f"build {number} did not start"
            time.sleep(0.01)

    def folders(self) -> list[str]:
        return [path.name for path in self.cache.iterdir() if path.is_dir()]

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path, "controlplane")
    yield made
    made.end()


may_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture(params=["controlplane", "gomicro", pytest.param("python-chroot", marks=may_mount)])
def any_of_them(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture(params=["controlplane", "gomicro"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path, request.param)
    yield made
    made.end()


def test_the_first_run_builds_and_the_next_ones_find_it(script: Script) -> None:
    script.go_on()
    status, folder, errors = script.run()
    assert status == 0, errors
    assert "building" in errors
    assert Path(folder.strip()).parent == script.cache
    for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        ran = subprocess.run([f"{folder.strip()}/{program}"], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == program
    assert script.run() == (0, folder, "")
    # Nobody's go.sum is changed by the way, and no C compiler is needed.
    assert (script.folder / "builds").read_text() == "-mod=readonly 0\n" * 2


VERSIONS = sorted(path.stem for path in (ROOT / "tests/cluster/controlplane").glob("[0-9]*.mod"))


@pytest.mark.parametrize("version", VERSIONS)
def test_another_kubernetes_is_another_build(script: Script, version: str) -> None:
    script.go_on()
    status, default, errors = script.run()
    assert status == 0, errors
    status, other, errors = script.run(KUBERNETES=version)
    assert status == 0, errors
    assert f"Kubernetes {version}." in errors
    assert f"/controlplane-{version}." in other
    assert other != default
    # `make` hands an empty variable over where nobody has set one.
    assert script.run(KUBERNETES="") == (0, default, "")
    assert script.run(KUBERNETES=version) == (0, other, "")


@pytest.mark.parametrize("version", ["1.1", "go", "../controlplane/go", "newest"])
def test_a_kubernetes_that_cannot_be_built_is_an_error_that_names_the_others(
    script: Script, version: str
) -> None:
    status, output, errors = script.run(KUBERNETES=version)
    assert (status, output) == (1, "")
    assert f"KUBERNETES is {version}, and no such version can be built here: 1." in errors
    assert all(known in errors for known in VERSIONS)
    assert script.builds() == 0


def test_the_night_tests_the_newest_kubernetes() -> None:
    def number(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert f"kubernetes={max(VERSIONS, key=number)}\n" in (ROOT / ".ci/nightly").read_text()


def test_the_peers_of_go_micro_are_one_program(tmp_path: Path) -> None:
    script = Script(tmp_path, "gomicro")
    script.go_on()
    status, program, errors = script.run()
    assert status == 0, errors
    assert "building" in errors
    assert Path(program.strip()).parent.parent == script.cache
    ran = subprocess.run([program.strip()], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "peer"
    assert script.run() == (0, program, "")
    assert (script.folder / "builds").read_text() == "-mod=readonly 0\n"


def test_two_at_a_time_build_once(any_of_them: Script) -> None:
    both = [any_of_them.start(), any_of_them.start()]
    any_of_them.wait_for_build(1)
    any_of_them.go_on()
    done = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], done
    assert done[0][0] == done[1][0] != ""
    assert any_of_them.builds() == any_of_them.whole


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_interrupted_is_none(any_of_them: Script, how: signal.Signals) -> None:
    process = any_of_them.start()
    any_of_them.wait_for_build(1)
    # As Ctrl-C does: to the script and all that it has started.
    os.killpg(process.pid, how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    left = any_of_them.folders()
    assert all(name.endswith(".partial") for name in left)
    assert how == signal.SIGKILL or not left

    any_of_them.go_on()
    status, folder, errors = any_of_them.run()
    assert status == 0, errors
    assert any_of_them.builds() == 1 + any_of_them.whole
    (kept,) = any_of_them.folders()
    assert f"/{kept}" in folder


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(any_of_them: Script) -> None:
    any_of_them.go_on()
    (any_of_them.folder / "broken").touch()
    status, output, _ = any_of_them.run()
    assert status != 0
    assert output == ""
    assert any_of_them.folders() == []
    (any_of_them.folder / "broken").unlink()
    assert any_of_them.run()[0] == 0


def test_binaries_of_ones_own_are_used_as_they_are(script: Script, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        (own / program).write_text("#!/bin/sh\n")
        (own / program).chmod(0o755)
    assert script.run(KUBEBUILDER_ASSETS=str(own)) == (0, f"{own}\n", "")
    (own / "kube-controller-manager").unlink()
    status, output, errors = script.run(KUBEBUILDER_ASSETS=str(own))
    assert (status, output) == (1, "")
    assert f"{own}, and there is no kube-controller-manager in it" in errors
    assert script.builds() == 0


def test_without_go_it_says_what_to_do(either: Script) -> None:
    (either.folder / "bin" / "go").unlink()
    status, output, errors = either.run()
    assert (status, output) == (1, "")
    assert "needs Go 1." in errors


def test_without_go_one_may_bring_a_control_plane(script: Script) -> None:
    (script.folder / "bin" / "go").unlink()
    _, _, errors = script.run()
    assert "KUBEBUILDER_ASSETS" in errors


def test_a_program_that_cannot_be_installed_is_an_error_that_names_its_package(script: Script) -> None:
    for name in ("ip", "setpriv"):
        (script.folder / "bin" / name).unlink()
    status, output, errors = script.run()  # no apt-get on its PATH
    assert (status, output) == (1, "")
    assert "apt-get install iproute2 util-linux" in errors
    assert script.builds() == 0


@may_mount
def test_of_the_debians_of_other_months_none_is_kept_but_one_in_use(tmp_path: Path) -> None:
    script = Script(tmp_path, "python-chroot")
    script.go_on()
    status, folder, errors = script.run()
    assert status == 0, errors
    made = Path(folder.strip())
    kept = script.cache / f"{made.name[:-7]}2020-01"
    used = script.cache / f"{made.name[:-7]}2020-02"
    other = script.cache / "python-testing-of-another-key-2020-01"
    for old in (kept, used, other):
        old.mkdir()
    shutil.rmtree(made)
    with Path(f"{used}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert script.run()[0] == 0
    assert sorted(script.folders()) == sorted([made.name, used.name, other.name])
    assert script.builds() == 2
