"""A whole cluster of one node: a control plane, and a kubelet that runs pods as processes of this machine.

    with Cluster({"pymicro-greeter": Path("examples/greeter")}) as cluster:
        cluster.apply("deploy/greeter", namespace)

The node is a network namespace with the control plane, the kubelet and the pods in it. It has no name and no
owner but this process and those that run in it: when they end, however they end, the kernel removes it and
everything else that was made here, but for files in the temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.kubelet import network
from tests.cluster.plane import ControlPlane, StartFailed, ending_with_us, eventually

ROOT = Path(__file__).resolve().parents[2]

Object = dict[str, Any]


def run_ip(lines: Sequence[str], prefix: Sequence[str] = ()) -> None:
    """Lines of `ip`, in one process; the first that fails ends it with an error."""
    done = subprocess.run(
        [*prefix, "ip", "-batch", "-"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ip: {done.stderr}{done.stdout} ({'; '.join(lines)})"


class NodeNamespace:
    """The node's network namespace, and a link to it from here.

    Attributes:
        link: The name of this end of the link.
        ip: The address of the node's end.
        prefix: What a command is started through to run in the namespace.
    """

    def __init__(self) -> None:
        self._descriptor = network.new_namespace()
        self.prefix = network.inside(network.path_of(self._descriptor))
        # In this machine's own namespace names and addresses can clash: with it, or with another run.
        self.link = f"pm{random.getrandbits(32):08x}"
        here, there = self._free_pair()
        self.ip = str(there)
        run_ip(
            [
                f"link add {self.link} type veth peer name eth0 netns {network.path_of(self._descriptor)}",
                f"address add {here}/30 dev {self.link}",
                f"link set {self.link} up",
            ]
        )
        run_ip(["link set lo up", f"address add {there}/30 dev eth0", "link set eth0 up"], self.prefix)

    def close(self) -> None:
        """Let go of it: with its last process it ends, and the link with it."""
        os.close(self._descriptor)

    @staticmethod
    def _free_pair() -> tuple[IPv4Address, IPv4Address]:
        shown = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True)
        taken = [
            IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
            for link in json.loads(shown.stdout)
            for address in link["addr_info"]
        ]
        while True:
            first = IPv4Address("10.245.0.0") + 4 * random.randrange(1 << 14)
            if not any(first in other for other in taken):
                return first + 1, first + 2


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as the API server has it.

    Attributes:
        pid: Process id of its only container on this machine; 0 before it runs.
    """

    name: str
    uid: str
    ip: str
    ready: bool
    leaving: bool
    restarts: int
    pid: int

    @classmethod
    def parse(cls, pod: Object) -> PodView:
        status = pod["status"]
        conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
        container = (status.get("containerStatuses") or [{}])[0]
        runs = "running" in container.get("state", {})
        return cls(
            name=pod["metadata"]["name"],
            uid=pod["metadata"]["uid"],
            ip=status.get("podIP", ""),
            ready=conditions.get("Ready") == "True",
            leaving="deletionTimestamp" in pod["metadata"],
            restarts=container.get("restartCount", 0),
            pid=int(container["containerID"].removeprefix("process://")) if runs else 0,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process, from outside."""
        assert self.pid, f"{self.name} does not run"
        os.kill(self.pid, number)


class Cluster:
    """Control plane and kubelet; blocking, like `ControlPlane`.

    Args:
        images: Names of images, without tag, and the folders that are their /app.

    Attributes:
        plane: The control plane.
        folder: The kubelet's files; `kubelet.log` and what containers print among them.
    """

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._images = dict(images)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="pymicro-node-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            # Containers are no root, and find their files below it.
            self.folder.chmod(0o711)
            self.node = NodeNamespace()
            stack.callback(self.node.close)
            self.plane = stack.enter_context(
                ControlPlane(bind_address=self.node.ip, command_prefix=self.node.prefix)
            )
            self._kubelet = self._start_kubelet()
            stack.callback(self._kill_kubelet)
            eventually("the kubelet registers its node", self._is_registered)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_kubelet(self) -> subprocess.Popen[bytes]:
        images = [f"--image={name}={folder}" for name, folder in self._images.items()]
        with (self.folder / "kubelet.log").open("ab") as log:
            return subprocess.Popen(
                [
                    # Ends with this thread, which is the one that pytest itself runs in.
                    *ending_with_us(),
                    *self.node.prefix,
                    *(sys.executable, "-m", "tests.cluster.kubelet"),
                    f"--kubeconfig={self.plane.kubeconfig}",
                    f"--node-ip={self.node.ip}",
                    f"--folder={self.folder}",
                    *images,
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _kill_kubelet(self) -> None:
        """And with it, by the kernel, all containers."""
        self._kubelet.kill()
        self._kubelet.wait()

    def _is_registered(self) -> bool:
        if self._kubelet.poll() is not None:
            raise StartFailed(f"the kubelet ended:\n{self.kubelet_log()}")
        return bool(self.plane.api.get("/api/v1/nodes")["items"])

    def kubelet_log(self, lines: int = 30) -> str:
        """The end of what the kubelet wrote."""
        text = (self.folder / "kubelet.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # Use

    def apply(self, folder: str | Path, namespace: str) -> None:
        """`kubectl apply -k`, with a folder of the checkout."""
        self.plane.kubectl("apply", "-n", namespace, "-k", str(ROOT / folder))

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """`kubectl scale`; not waited for."""
        self.plane.kubectl("scale", "-n", namespace, f"deployment/{deployment}", f"--replicas={replicas}")

    def rollout_restart(self, namespace: str, deployment: str, timeout: float) -> None:
        """`kubectl rollout restart`, until as many new pods are available; old ones may still be stopping."""
        name = f"deployment/{deployment}"
        self.plane.kubectl("rollout", "restart", "-n", namespace, name)
        self.plane.kubectl("rollout", "status", "-n", namespace, name, timeout=timeout)

    def pods(self, namespace: str, selector: str = "") -> list[PodView]:
        """All pods with some labels, those that leave included."""
        answer = self.plane.api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        return [PodView.parse(pod) for pod in answer["items"]]

    def wait_for_pods(
        self, namespace: str, selector: str, count: int, timeout: float = 60.0
    ) -> list[PodView]:
        """Wait until there are exactly so many pods, all ready and none leaving."""
        return self._wait_for(namespace, selector, count, lambda pod: pod.ready, timeout)

    def wait_for_running(self, namespace: str, selector: str, count: int) -> list[PodView]:
        """The same for pods that only run."""
        return self._wait_for(namespace, selector, count, lambda pod: pod.pid > 0, 60.0)

    def _wait_for(
        self, namespace: str, selector: str, count: int, good: Callable[[PodView], bool], timeout: float
    ) -> list[PodView]:
        found: list[PodView] = []

        def settled() -> bool:
            found[:] = self.pods(namespace, selector)
            return len(found) == count and all(good(pod) and not pod.leaving for pod in found)

        try:
            eventually(f"{count} pods with {selector} are as wanted", settled, timeout)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {found}\n{self.kubelet_log()}") from None
        return found

    def output(self, namespace: str, pattern: str) -> str:
        """What containers have printed: of all pods, also past ones, whose name matches (`re.match`)."""
        folder = self.folder / "logs" / namespace
        files = sorted(file for file in folder.glob("*.log") if re.match(pattern, file.name))
        return "".join(file.read_text(errors="replace") for file in files)

    def entering(self, pod: PodView) -> tuple[list[str], dict[str, str]]:
        """What a command is started through to run in the pod's container, and the environment to give it."""
        environment = Path(f"/proc/{pod.pid}/environ").read_text().split("\0")
        of_its = ("--net", "--uts", "--pid", "--mount", "--root", "--wd")
        status = Path(f"/proc/{pod.pid}/status").read_text()
        ids = {kind: re.search(rf"^{kind}:\t(\d+)", status, re.MULTILINE) for kind in ("Uid", "Gid")}
        user, group = (found.group(1) if found else "0" for found in ids.values())
        return (
            ["nsenter", f"--target={pod.pid}", *of_its, f"--setuid={user}", f"--setgid={group}"],
            dict(entry.split("=", 1) for entry in environment if entry),
        )

    def execute(self, pod: PodView, *command: str) -> subprocess.CompletedProcess[str]:
        """`kubectl exec`: a command in the pod's container, with its environment and its rights."""
        prefix, environment = self.entering(pod)
        return subprocess.run(
            [*prefix, *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60.0,
        )

    def black_hole(self, pod: PodView) -> None:
        """From now on packets to the pod vanish, and nobody is told; its own are lost on the way, too."""
        run_ip(network.swallow(pod.ip), self.node.prefix)
        run_ip(network.swallow_own(), network.inside(f"/proc/{pod.pid}/ns/net"))

    def end_black_hole(self, pod: PodView) -> None:
        """The opposite."""
        run_ip(network.deliver(pod.ip), self.node.prefix)
        run_ip(network.deliver_own(), network.inside(f"/proc/{pod.pid}/ns/net"))

    def hand_over_ip(self, old: PodView, new: PodView) -> None:
        """From now on the address of one pod is, besides its own, that of another; the first has none."""
        run_ip(network.route_to(old.ip, new.ip), self.node.prefix)
        run_ip(network.answer_for(old.ip), network.inside(f"/proc/{new.pid}/ns/net"))

    def give_back_ip(self, old: PodView, new: PodView) -> None:
        """The opposite."""
        run_ip(network.route_to(old.ip, old.ip), self.node.prefix)
        run_ip(network.answer_no_more_for(old.ip), network.inside(f"/proc/{new.pid}/ns/net"))

    @contextlib.contextmanager
    def api_server_away(self) -> Iterator[None]:
        """It is killed and, afterwards, started again; pods go on meanwhile."""
        self.plane.stop_apiserver()
        try:
            yield
        finally:
            self.plane.start_apiserver()
            self.plane.restart_controllers()
