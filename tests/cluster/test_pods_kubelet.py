"""The tests' kubelet does what a real one does, as far as the other tests rely on it."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.plane import eventually

pytestmark = pytest.mark.cluster

# Of the pod that shows a Secret: all of it, and one of its keys.
VOLUMES = ("whole", "part")


def start(cluster: Cluster, namespace: str, program: str, **spec: Any) -> None:
    """Start a pod called `lone` that runs a Python program."""
    container = {
        "name": "main",
        "image": "pymicro-greeter:dev",
        "command": ["python", "-c", textwrap.dedent(program)],
        **spec.pop("container", {}),
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lone", "labels": {"app": "lone"}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [container], **spec},
    }
    cluster.plane.api.post(f"/api/v1/namespaces/{namespace}/pods", pod)


def last_line(cluster: Cluster, namespace: str) -> str:
    """The newest whole line that the pod printed."""
    found = eventually(
        "the pod prints a line",
        lambda: [line for line in cluster.output(namespace, "lone").split("\n")[:-1] if line],
    )
    return str(found[-1])


def test_a_container_finds_what_kubernetes_promises_it(cluster: Cluster, pods_namespace: str) -> None:
    start(
        cluster,
        pods_namespace,
        """
        import json, os, pathlib, socket, time
        account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
        def writes(path):
            try:
                pathlib.Path(path, "x").write_text("x")
            except OSError as exc:
                return exc.strerror
            return "written"
        print(json.dumps({
            "env": {name: os.environ[name] for name in ("NAME", "IP", "UID", "HOSTNAME")},
            "api": os.environ["KUBERNETES_SERVICE_HOST"],
            "hostname": socket.gethostname(),
            "own address": socket.gethostbyname(socket.gethostname()),
            "ids": [os.getpid(), os.getuid(), os.getgid()],
            "privileges": [
                line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapEff", "NoNewP")
            ],
            "writes": {path: writes(path) for path in ("/", "/app", "/usr", "/tmp", str(account))},
            "files": sorted(entry.name for entry in account.iterdir() if entry.name[:2] != ".."),
            "namespace": (account / "namespace").read_text(),
            "token": (account / "token").read_text(),
            "app": sorted(entry.name for entry in pathlib.Path("/app").iterdir()),
        }), flush=True)
        time.sleep(1000)
        """,
        securityContext={"runAsNonRoot": True},
        container={
            "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
            "env": [
                {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                for name, path in (("NAME", "metadata.name"), ("IP", "status.podIP"), ("UID", "metadata.uid"))
            ],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        },
        volumes=[{"name": "tmp", "emptyDir": {}}],
    )
    found = json.loads(last_line(cluster, pods_namespace))
    [pod] = cluster.wait_for_pods(pods_namespace, "app=lone", 1)

    assert found["env"] == {"NAME": "lone", "IP": pod.ip, "UID": pod.uid, "HOSTNAME": "lone"}
    assert found["api"] == cluster.plane.host
    assert (found["hostname"], found["own address"]) == ("lone", pod.ip)
    assert found["ids"] == [1, 65532, 65532]
    assert found["privileges"] == ["0000000000000000", "1"]
    read_only = "Read-only file system"
    assert found["writes"].pop("/tmp") == "written"
    assert set(found["writes"].values()) == {read_only}
    assert found["files"] == ["ca.crt", "namespace", "token"]
    assert found["namespace"] == pods_namespace
    assert "server.py" in found["app"]
    claims = json.loads(base64.urlsafe_b64decode(found["token"].split(".")[1] + "=="))
    assert claims["sub"] == f"system:serviceaccount:{pods_namespace}:default"
    assert claims["kubernetes.io"]["pod"] == {"name": "lone", "uid": pod.uid}


def test_a_secret_that_changes_is_swapped_in_one_step(cluster: Cluster, pods_namespace: str) -> None:
    path = f"/api/v1/namespaces/{pods_namespace}/secrets"

    def data(**texts: str) -> dict[str, Any]:
        return {"data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}}

    cluster.plane.api.post(path, {"metadata": {"name": "pair"}, **data(one="1", two="1")})
    start(
        cluster,
        pods_namespace,
        """
        import json, os, time
        def seen():
            found = []
            for folder in ("/whole", "/part"):
                names = [name for name in os.listdir(folder) if name[0] != "."]
                found.append({name: open(f"{folder}/{name}").read() for name in names})
            return found
        before = None
        while True:
            # As pymicro reads them: all of one moment, or again.
            mark = os.readlink("/whole/..data"), os.readlink("/part/..data")
            try:
                found = seen()
            except FileNotFoundError:
                continue
            if mark == (os.readlink("/whole/..data"), os.readlink("/part/..data")) and found != before:
                print(json.dumps(found), flush=True)
                before = found
            time.sleep(0.001)
        """,
        container={
            "volumeMounts": [{"name": name, "mountPath": f"/{name}", "readOnly": True} for name in VOLUMES]
        },
        volumes=[
            {"name": "whole", "secret": {"secretName": "pair"}},
            {
                "name": "part",
                "projected": {
                    "sources": [{"secret": {"name": "pair", "items": [{"key": "two", "path": "2"}]}}]
                },
            },
        ],
    )
    cluster.wait_for_pods(pods_namespace, "app=lone", 1)
    eventually("it has seen both", lambda: json.loads(last_line(cluster, pods_namespace))[1] == {"2": "1"})
    for text in ("2", "3", "4"):
        cluster.plane.api.patch(f"{path}/pair", data(one=text, two=text))
        now = [{"one": text, "two": text}, {"2": text}]
        eventually(
            "it sees the new one", lambda now=now: json.loads(last_line(cluster, pods_namespace)) == now
        )
    lines = [json.loads(line) for line in cluster.output(pods_namespace, "lone").splitlines()]
    # Never one file of one moment beside the other one of another.
    assert all(whole["one"] == whole["two"] for whole, _ in lines)


def test_a_crashed_container_is_started_again_in_the_same_pod(cluster: Cluster, pods_namespace: str) -> None:
    start(cluster, pods_namespace, "import time; time.sleep(1000)")
    [before] = cluster.wait_for_pods(pods_namespace, "app=lone", 1)
    for restarts in (1, 2):
        [pod] = cluster.pods(pods_namespace)
        pod.signal(signal.SIGKILL)
        eventually(
            "the container runs again",
            lambda n=restarts: [p.ready and p.restarts == n for p in cluster.pods(pods_namespace)] == [True],
        )
    [after] = cluster.pods(pods_namespace)
    assert (after.uid, after.ip) == (before.uid, before.ip)
    assert after.pid != before.pid
    [raw] = cluster.plane.api.get(f"/api/v1/namespaces/{pods_namespace}/pods")["items"]
    assert raw["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_a_deleted_pod_has_its_grace_and_is_then_killed(cluster: Cluster, pods_namespace: str) -> None:
    start(
        cluster,
        pods_namespace,
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
        print("started", flush=True)
        while True:
            time.sleep(1000)
        """,
    )
    assert last_line(cluster, pods_namespace) == "started"
    [pod] = cluster.wait_for_pods(pods_namespace, "app=lone", 1)
    begun = time.monotonic()
    cluster.plane.api.delete(f"/api/v1/namespaces/{pods_namespace}/pods/lone")
    eventually("it is asked", lambda: last_line(cluster, pods_namespace) == "asked to stop", 1.5)
    assert cluster.pods(pods_namespace)[0].leaving
    assert Path(f"/proc/{pod.pid}").exists()
    eventually("the pod is gone", lambda: not cluster.pods(pods_namespace), 10.0)
    assert time.monotonic() - begun > 2.0
    assert not Path(f"/proc/{pod.pid}").exists()


def test_nothing_is_left_when_whoever_runs_the_cluster_is_killed() -> None:
    program = """
        import json, sys, time
        from tests.cluster.cluster import Cluster
        from tests.cluster.kubelet.images import ROOT
        from tests.cluster.test_pods_kubelet import start
        with Cluster({"pymicro-greeter": ROOT / "examples" / "greeter"}) as cluster:
            start(cluster, "default", "import time; time.sleep(1000)")
            [pod] = cluster.wait_for_pods("default", "app=lone", 1)
            folders = str(cluster.folder), str(cluster.plane.folder)
            print(json.dumps([pod.pid, cluster.node.link, *folders]), flush=True)
            time.sleep(1000)
    """
    runner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert runner.stdout is not None
        pid, link, *folders = json.loads(runner.stdout.readline())
        assert Path(f"/sys/class/net/{link}").exists()
    finally:
        runner.kill()
        runner.wait()
        runner.stdout.close()

    def processes() -> list[str]:
        """Those that carry one of its folders in their command line, and the container."""
        lines = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if any(folder in line for folder in folders) or entry.name == str(pid):
                lines.append(line.replace("\0", " "))
        return lines

    try:
        eventually("all processes are gone", lambda: not processes(), 10.0)
        eventually("the link is gone", lambda: not Path(f"/sys/class/net/{link}").exists(), 10.0)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
