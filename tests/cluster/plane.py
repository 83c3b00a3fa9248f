"""A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager as child processes.

    with ControlPlane() as plane:
        plane.kubectl("apply", "-f", "pod.yaml")
        plane.api.get("/api/v1/namespaces/default/pods")

The programs come from `scripts/controlplane`, by way of KUBEBUILDER_ASSETS. There is no scheduler
and no kubelet: a test writes a pod's status itself, or brings a kubelet of its own. Everything is
plain and blocking, so that a fixture of any scope can own it; in a coroutine use
`await asyncio.to_thread(…)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.api import Api, Refused
from tests.cluster.etcd import Etcd

# What a Deployment needs to become pods, a Service to become EndpointSlices, a namespace to have its
# service account, things to be collected, a budget of disruptions to be counted, and the expressions of
# an admission policy to be checked.
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "disruption-controller",
    "validatingadmissionpolicy-status-controller",
)

ISSUER = "https://kubernetes.default.svc"

# Below the ports the kernel hands out for connections (32768 on Linux), so that nobody's connection sits on
# the API server's port while it is stopped.
PORTS = range(20000, 32000)

START_TIMEOUT = 60.0


class StartFailed(Exception):
    """A program of the control plane ended, or did not get ready."""


def eventually(what: str, condition: Callable[[], Any], timeout: float = START_TIMEOUT) -> Any:
    """The first true value of `condition()`, asked again until then.

    Raises:
        AssertionError: It was not true within `timeout` seconds; names `what`.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.05)
    return value


async def until(
    what: str, condition: Callable[[], bool | Awaitable[bool]], timeout: float = START_TIMEOUT
) -> None:
    """As `eventually`, in a coroutine; the condition may be one too."""
    deadline = time.monotonic() + timeout
    while True:
        true = condition()
        if isinstance(true, Awaitable):
            true = await true
        if true:
            return
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        await asyncio.sleep(0.05)


def ending_with_us() -> tuple[str, ...]:
    """What a command is started through so that the kernel ends it when the thread that started it ends."""
    # We may have died before the signal was asked for; then nobody would send it.
    still_ours = ("sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()))
    return ("setpriv", "--pdeathsig", "KILL", "--", *still_ours)


class Programs:
    """Child processes that end with us, however we end: one thread that lives with them starts all."""

    def __init__(self, folder: Path, prefix: Sequence[str]) -> None:
        self.folder = folder
        self._prefix = (*ending_with_us(), *prefix)
        self._starter = ThreadPoolExecutor(1, "control plane")
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, program: str | Path, *arguments: str) -> None:
        """Start it; what it prints goes to NAME.log in the folder, after what is there."""
        name = Path(program).name

        def popen() -> subprocess.Popen[bytes]:
            with (self.folder / f"{name}.log").open("ab") as log:
                return subprocess.Popen(
                    [*self._prefix, str(program), *arguments],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for pytest, which then takes us down in order.
                    start_new_session=True,
                )

        self._running[name] = self._starter.submit(popen).result()

    def running(self, name: str) -> bool:
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def pids(self) -> list[int]:
        return [process.pid for process in self._running.values()]

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end; nothing if it does not run."""
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        for name in list(self._running):
            self.kill(name)
        self._starter.shutdown()

    def tail(self, name: str, lines: int = 15) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class ControlPlane:
    """One cluster's control plane, with a folder, ports and credentials of its own.

    Args:
        bind_address: The API server's IP address. It must be reachable from this process, and from the
            command prefix's network namespace.
        command_prefix: What each program is started through, such as `("ip", "netns", "exec", "node")`;
            it has to end as the program (exec), for it is known by its process id.
        api_flags: Further flags of kube-apiserver, such as `--watch-cache=false`.
        controllers: Names for the controller manager; none, and it is not started.
        service_range: ClusterIPs of Services.
        ports: The API server takes one of these.

    Attributes:
        url: `https://127.0.0.1:23456`.
        api: A client that may do everything.
        etcd: What the API server stores everything in.
        token: Its token.
        ca_file: The certificate authority of the API server.
        kubeconfig: A kubeconfig file for the same identity, with the one context `test`.
        folder: Where all files are, NAME.log of each program among them; gone after `close`.
    """

    def __init__(
        self,
        *,
        bind_address: str = "127.0.0.1",
        command_prefix: Sequence[str] = (),
        api_flags: Sequence[str] = (),
        controllers: Sequence[str] = CONTROLLERS,
        service_range: str = "10.96.0.0/24",
        ports: Sequence[int] = PORTS,
    ) -> None:
        self.host = bind_address
        self.port = 0
        self.token = secrets.token_hex(16)
        self._prefix = tuple(command_prefix)
        self._api_flags = tuple(api_flags)
        self._controllers = tuple(controllers)
        self._service_range = service_range
        self._ports = ports

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start everything and wait until it answers.

        Raises:
            StartFailed: Something did not start; the message has the end of its log.
        """
        self._assets = assets()
        with contextlib.ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix="pymicro-plane-"))
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._programs = Programs(self.folder, self._prefix)
            undo.callback(self._programs.close)
            self.etcd = Etcd(f"{self.folder}/etcd:0")
            undo.callback(self.etcd.close)
            self._write_credentials()
            self._start_etcd()
            self._start_first_apiserver()
            self.kubeconfig_for(Path(self.kubeconfig), {"token": self.token})
            self.api = Api(self.host, self.port, self.ca_file, self.token)
            undo.callback(self.api.close)
            if self._controllers:
                self._start_controllers()
            self.namespace("default")
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Kill all programs and remove all files. Nothing in them is worth an orderly end."""
        self._undo.close()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    @property
    def ca_file(self) -> str:
        # The API server signs its own certificate and appends the authority's.
        return str(self.folder / "certificates" / "apiserver.crt")

    @property
    def kubeconfig(self) -> str:
        return str(self.folder / "kubeconfig")

    @property
    def kubectl_program(self) -> str:
        return str(self._assets / "kubectl")

    def pids(self) -> list[int]:
        """Of the programs that run."""
        return self._programs.pids()

    # Faults

    def stop_apiserver(self) -> None:
        """Kill it: connections break at once. (An orderly stop takes a minute while watches are open.)"""
        self._programs.kill("kube-apiserver")

    def start_apiserver(self, *flags: str) -> None:
        """Start it again on its port, with these flags besides, and wait until it answers."""
        self._run_apiserver(flags)
        self._wait_for_apiserver()

    def restart_apiserver(self) -> None:
        self.stop_apiserver()
        self.start_apiserver()

    def restart_controllers(self) -> None:
        """They would need half a minute to notice that the API server is back."""
        self._programs.kill("kube-controller-manager")
        self._start_controllers()

    def compact(self) -> int:
        """Forget all versions before now, and return it.

        An API server that runs on still answers from its watch cache as if nothing had happened:
        restart it, or run it with `--watch-cache=false`.
        """
        now = self.etcd.revision()
        self.etcd.compact(now)
        return now

    # Use

    def kubectl(
        self,
        *arguments: str,
        stdin: str = "",
        check: bool = True,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as an administrator.

        Raises:
            AssertionError: It failed, and `check` is true.
        """
        done = subprocess.run(
            [*self._prefix, self.kubectl_program, *arguments],
            # Its cache of discovery must not outlive this API server, whose port another may get.
            env={**os.environ, "KUBECONFIG": self.kubeconfig, "KUBECACHEDIR": str(self.folder / "kubectl")}
            | dict(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done

    def namespace(self, name: str = "") -> str:
        """Make a namespace in which pods can be created at once; with no name, one of its own."""
        name = name or f"test-{secrets.token_hex(4)}"
        with existing():
            self.api.post(
                "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        self.service_account(name, "default")
        return name

    def service_account(self, namespace: str, name: str) -> None:
        """Make a service account, unless it is there (the controller makes `default` in its own time)."""
        with existing():
            self.api.post(
                f"/api/v1/namespaces/{namespace}/serviceaccounts",
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
            )

    def node(self, name: str, *, zone: str) -> None:
        """Make a node that nobody serves; the controllers pass over pods on nodes that do not exist."""
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}
        with existing():
            self.api.post("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})

    def account(
        self, namespace: str, name: str, *, verbs: str = "", resource: str = "", group: str = ""
    ) -> Api:
        """A service account with these rights (verbs with commas between), as a client with its token."""
        self.service_account(namespace, name)
        if verbs:
            self.allow(namespace, name, verbs=verbs, resource=resource, group=group)
        return self.api.as_token(self.token_for(namespace, name))

    def bind(self, namespace: str, account: str, role: str) -> None:
        """A service account that has a Role of its namespace, which must be there."""
        self.service_account(namespace, account)
        binding = {
            "metadata": {"name": f"{account}-{secrets.token_hex(3)}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
        }
        self.api.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", binding)

    def allow(self, namespace: str, account: str, *, verbs: str, resource: str, group: str = "") -> None:
        """Give it rights in its namespace, and wait until they are in force."""
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        rule = {"apiGroups": [group], "resources": [resource], "verbs": verbs.split(",")}
        role = {"metadata": {"name": f"{account}-{secrets.token_hex(3)}"}, "rules": [rule]}
        self.bind(namespace, account, self.api.post(f"{rbac}/roles", role)["metadata"]["name"])
        asked = {"namespace": namespace, "verb": verbs.split(",")[-1], "group": group, "resource": resource}
        eventually(
            f"{account} may {verbs} {resource}",
            lambda: self.may(f"system:serviceaccount:{namespace}:{account}", asked),
            10.0,
        )

    def may(self, user: str, asked: Mapping[str, str]) -> bool:
        """What the API server's authorizer says at present."""
        review = {"spec": {"user": user, "resourceAttributes": asked}}
        answer = self.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def wait_for_endpoints(self, namespace: str, service: str, count: int) -> None:
        """Wait until the controller has put so many ready endpoints into the slices of a Service."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

        def ready() -> bool:
            found = self.api.get(path, labelSelector=f"kubernetes.io/service-name={service}")["items"]
            endpoints = [one for each in found for one in each["endpoints"] or ()]
            return sum(bool(one["conditions"].get("ready")) for one in endpoints) == count

        eventually(f"{service} has {count} ready endpoints", ready)

    def token_for(
        self,
        namespace: str,
        account: str,
        *,
        pod: Mapping[str, Any] | None = None,
        seconds: int = 3600,
        audience: str = "",
    ) -> str:
        """A token of a service account, as a kubelet gets it; bound to `pod` (the API's object) if given.

        A bound token is refused from its pod's deletion on (within the 10 s that the API server
        remembers an answer). `seconds` may not be below 600. Without an `audience` it is for the API server.
        """
        spec: dict[str, Any] = {"expirationSeconds": seconds}
        if audience:
            spec["audiences"] = [audience]
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "uid": meta["uid"],
            }
        answer = self.api.post(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(answer["status"]["token"])

    def service_account_folder(
        self, folder: Path, namespace: str, account: str, *, pod: Mapping[str, Any] | None = None
    ) -> Path:
        """Fill `folder` with what a pod finds in /var/run/secrets/kubernetes.io/serviceaccount."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "namespace").write_text(namespace)
        (folder / "ca.crt").write_text(Path(self.ca_file).read_text())
        (folder / "token").write_text(self.token_for(namespace, account, pod=pod))
        return folder

    def client_certificate(self, user: str) -> tuple[str, str]:
        """Files of a certificate that makes its holder `user`, and of its key."""
        name = f"client-{secrets.token_hex(4)}"
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={user}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "clients.crt", "-CAkey", "clients.key"),
            *("-CAcreateserial", "-days", "1", "-out", f"{name}.crt"),
        )
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")

    def kubeconfig_for(
        self,
        path: Path,
        user: Mapping[str, Any],
        *,
        name: str = "test",
        namespace: str = "default",
        context: str = "test",
    ) -> str:
        """Write a kubeconfig for somebody else, whom it calls `name`, and return its path."""
        cluster = {"server": self.url, "certificate-authority": self.ca_file}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [
                {"name": context, "context": {"cluster": "test", "user": name, "namespace": namespace}}
            ],
        }
        path.write_text(json.dumps(document))  # JSON is YAML
        return str(path)

    def pod_environment(self) -> dict[str, str]:
        """The two variables by which a pod finds the API server."""
        return {"KUBERNETES_SERVICE_HOST": self.host, "KUBERNETES_SERVICE_PORT": str(self.port)}

    # Programs

    def _write_credentials(self) -> None:
        (self.folder / "certificates").mkdir()
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        # What tokens of service accounts are signed with, and what client certificates are.
        self._openssl("genrsa", "-out", "accounts.key", "2048")
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=clients"),
            *("-keyout", "clients.key", "-out", "clients.crt"),
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def _start_etcd(self) -> None:
        # etcd wants a port even of a Unix socket, and makes it part of the file's name, relative to its
        # directory.
        client, peer = "unix://etcd:0", "unix://peer:0"
        self._programs.start(
            self._assets / "etcd",
            "--name=test",
            "--data-dir=etcd.data",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--log-level=warn",
        )
        self._wait_for("etcd", self.etcd.revision)

    def _start_first_apiserver(self) -> None:
        # A port cannot be left to the kernel here: the server refuses port 0. So one that is free now, and
        # another if somebody was faster, or if it is not free in the prefix's namespace.
        for port in random.sample(self._ports, len(self._ports)):
            if not is_free(port):
                continue
            self.port = port
            try:
                self.start_apiserver()
            except StartFailed as exc:
                if "address already in use" not in str(exc):
                    raise
            else:
                return
        raise StartFailed("kube-apiserver: no port is free")

    def _run_apiserver(self, flags: Sequence[str]) -> None:
        key = self.folder / "accounts.key"
        self._programs.start(
            self._assets / "kube-apiserver",
            f"--etcd-servers=unix://{self.etcd.path}",
            # What is compacted, and when, is for tests to say.
            "--etcd-compaction-interval=0",
            f"--cert-dir={self.folder}/certificates",
            f"--bind-address={self.host}",
            f"--secure-port={self.port}",
            f"--advertise-address={self.host}",
            # It would publish the address as the endpoint of Service `kubernetes`, where loopback is refused.
            "--endpoint-reconciler-type=none",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--service-account-issuer={ISSUER}",
            f"--token-auth-file={self.folder}/tokens.csv",
            f"--client-ca-file={self.folder}/clients.crt",
            "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={self._service_range}",
            *self._api_flags,
            *flags,
        )

    def _wait_for_apiserver(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(Refused, OSError, http.client.HTTPException):
                probe = Api(self.host, self.port, self.ca_file, self.token, timeout=5.0)
                try:
                    return bool(probe.get("/readyz") == "ok")
                finally:
                    probe.close()
            return False

        self._wait_for("kube-apiserver", ready)

    def _start_controllers(self) -> None:
        self._programs.start(
            self._assets / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(self._controllers)}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={self.folder}/accounts.key",
            f"--root-ca-file={self.ca_file}",
            # 20 requests a second would be a rollout's speed limit.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def _wait_for(self, name: str, ready: Callable[[], Any]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if not self._programs.running(name):
                raise StartFailed(f"{name} ended:\n{self._programs.tail(name)}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{name} was not ready in {START_TIMEOUT:.0f} s:\n{self._programs.tail(name)}"
                )
            time.sleep(0.05)


@contextlib.contextmanager
def existing() -> Iterator[None]:
    """What is there already need not be made."""
    try:
        yield
    except Refused as exc:
        if exc.status != http.client.CONFLICT:
            raise


def is_free(port: int) -> bool:
    """Whether nobody listens on it here at present."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def assets() -> Path:
    """The folder of the programs.

    Raises:
        StartFailed: KUBEBUILDER_ASSETS does not say where they are.
    """
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    if not folder:
        raise StartFailed("KUBEBUILDER_ASSETS is not set: run `make test-cluster`")
    return Path(folder)
