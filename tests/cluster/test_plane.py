"""The control plane that the tests start: its ports, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.plane import ControlPlane, eventually
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

OWNER = """
import signal
from tests.cluster.plane import ControlPlane

with ControlPlane() as plane:
    print(plane.folder, *plane.pids(), flush=True)
    signal.pause()
"""


def is_running(pid: int) -> bool:
    try:
        # A dead process whose parent has not asked for it yet is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_whoever_started_it(how: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        assert len(pids) == 3
        assert all(is_running(int(pid)) for pid in pids)
        owner.send_signal(how)
        owner.wait(20)
        eventually("all have ended", lambda: not any(is_running(int(pid)) for pid in pids), 10.0)
    finally:
        owner.kill()
        owner.communicate()
    subprocess.run(["rm", "-rf", folder], check=True)


def test_nothing_is_left_of_it_when_it_is_closed() -> None:
    with ControlPlane(controllers=()) as plane:
        folder, pids = plane.folder, plane.pids()
    assert not folder.exists()
    assert not any(is_running(pid) for pid in pids)


def test_a_port_that_somebody_has_is_left_to_them() -> None:
    """Also where it cannot be seen beforehand, as in another network namespace: here, on another address."""
    with contextlib.ExitStack() as stack:
        taken = []
        for host in ("127.0.0.1", "127.0.0.5", "127.0.0.5", "127.0.0.5"):
            listener = stack.enter_context(socket.socket())
            listener.bind((host, 0))
            listener.listen()
            taken.append(listener.getsockname()[1])
        with socket.socket() as probe:
            probe.bind(("127.0.0.5", 0))
            free = probe.getsockname()[1]
        with ControlPlane(bind_address="127.0.0.5", controllers=(), ports=[*taken, free]) as plane:
            assert plane.port == free
            assert plane.api.get("/readyz") == "ok"
