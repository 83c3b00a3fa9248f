"""docs/kubernetes-from-zero.md: its lines of `kubectl` and `pymicro`, on a cluster with pods as processes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.plane import eventually
from tests.pages import Command, Page
from tests.processes import ROOT, clean_environment

pytestmark = pytest.mark.cluster

PAGE = Page("docs/kubernetes-from-zero.md")
# What needs Docker, or makes a cluster, which is there.
ELSEWHERE = {"docker", "kind", "export"}


class Reader:
    """Somebody who follows the page in a clone, with a cluster."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.folder = folder
        self.at = ROOT
        self.skipped: set[str] = set()

    def follow(self, command: Command) -> None:
        words = shlex.split(command.line)
        if words[0] in ELSEWHERE:
            self.skipped.add(words[0])
            return
        if words[0] == "cd":
            self.at = (self.at / words[1]).resolve(strict=True)
            return
        printed = self.pymicro(words) if words[0] == "pymicro" else self.kubectl(words)
        if command.output:
            assert command.printed(printed), f"{command.line} printed\n" + "\n".join(printed)

    def pymicro(self, words: list[str]) -> list[str]:
        assert words[-2] == ">", "what it prints goes to a file"
        done = subprocess.run(
            [sys.executable, "-m", *words[:-2]],
            cwd=self.at,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        (self.folder / words[-1]).write_text(done.stdout)
        return []

    def kubectl(self, words: list[str]) -> list[str]:
        assert words[0] == "kubectl"
        if words[1] == "exec":
            return self.exec(words[2], words[words.index("--") + 1 :])
        # The file is not in the clone: tests write nothing there.
        words = [str(self.folder / word) if word.endswith(".yaml") else word for word in words]
        done = self.cluster.plane.kubectl("-n", self.namespace, *words[1:], timeout=240.0)
        return done.stdout.splitlines()

    def exec(self, where: str, words: list[str]) -> list[str]:
        """The kubelet of the tests lets nobody in; its pods are entered from outside."""
        label = f"app.kubernetes.io/name={where.removeprefix('deployment/')}"
        ready = [pod for pod in self.cluster.pods(self.namespace, label) if pod.ready and not pod.leaving]
        done = self.cluster.execute(ready[0], *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()


def test_the_page_is_followed_from_its_top_to_its_bottom(
    cluster: Cluster, pods_namespace: str, tmp_path: Path
) -> None:
    reader = Reader(cluster, pods_namespace, tmp_path)
    commands = [command for block in PAGE.blocks("text") for command in block.commands]
    for command in commands:
        reader.follow(command)
        if "rollout status" in command.line:
            # Those that stop are counted by `kubectl get pods` until they have.
            eventually("nobody leaves", lambda: not any(pod.leaving for pod in cluster.pods(pods_namespace)))
    assert reader.skipped == ELSEWHERE
    eventually("nothing is left", lambda: not cluster.pods(pods_namespace))
    assert len([c for c in commands if c.line.startswith("kubectl")]) >= 12
