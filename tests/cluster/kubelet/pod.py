"""One pod, from its binding to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from tests.cluster.kubelet.api import RETRY, STRATEGIC_MERGE, Api, Object, Refused, insist
from tests.cluster.kubelet.container import Container, now
from tests.cluster.kubelet.environment import environment
from tests.cluster.kubelet.images import Images, NoImage
from tests.cluster.kubelet.network import Network, PodNetwork
from tests.cluster.kubelet.status import pod_status
from tests.cluster.kubelet.volumes import Unsupported, Volumes, secrets_of, write_hosts

log = logging.getLogger("kubelet.pod")


@dataclass(frozen=True, slots=True)
class Machine:
    """What all pods of a node share.

    Attributes:
        folder: Of the kubelet; a pod's files are in `pods/<uid>`, its output in
            `logs/<namespace>/<pod>.<container>.log`.
        ip: The node's address.
    """

    api: Api
    network: Network
    images: Images
    folder: Path
    ip: str


class Pod:
    """A pod bound to this node. `run` ends when it is gone, here and from the API server."""

    def __init__(self, machine: Machine, pod: Object) -> None:
        self._machine = machine
        self._pod = pod
        meta = pod["metadata"]
        self.label = f"{meta['namespace']}/{meta['name']}"
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._folder = machine.folder / "pods" / meta["uid"]
        self._volumes = Volumes(machine.api, self._folder / "volumes")
        self._network: PodNetwork | None = None
        self._containers: list[Container] = []
        self._started = now()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._vanished = False
        # Known once they are made.
        self._hosts: list[tuple[str, str]] = []
        self._renewal: float | None = None
        self._stale = asyncio.Event()

    def update(self, pod: Object) -> None:
        """The object as it is now, or still is."""
        if pod is not self._pod:
            self._pod = pod
            # Somebody else's condition may be what its readiness waits for.
            self._changed.set()
        if "deletionTimestamp" in pod["metadata"]:
            self._stopping.set()

    def secret_changed(self, namespace: str, name: str) -> None:
        """Somebody has written a Secret, perhaps one that is shown in a volume here."""
        if namespace == self._pod["metadata"]["namespace"] and name in secrets_of(self._pod):
            self._stale.set()

    def vanish(self) -> None:
        """The object was removed under us: by force, or with the namespace."""
        self._vanished = True
        self._stopping.set()

    async def run(self) -> None:
        """The pod's whole life."""
        log.info("%s: begins", self.label)
        writing = asyncio.create_task(self._write_statuses(), name=f"status of {self.label}")
        try:
            if await self._prepare():
                renewing = asyncio.create_task(self._renew(), name=f"volumes of {self.label}")
                try:
                    await self._run_containers()
                finally:
                    renewing.cancel()
                    await asyncio.wait([renewing])
            # Whatever its containers came to, the pod stays until somebody deletes it.
            await self._stopping.wait()
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        if self._network is not None:
            await self._machine.network.remove(self._network)
        if not self._vanished:
            await insist(self._write_status)
            await insist(self._remove)
        log.info("%s: is gone", self.label)

    async def _prepare(self) -> bool:
        """Network, volumes and containers; False if the pod was deleted meanwhile, or cannot be run."""
        self._folder.mkdir(parents=True)
        self._network = await self._machine.network.add()
        while not self._stopping.is_set():
            try:
                self._renewal = await self._volumes.make(self._pod)
            except (Refused, aiohttp.ClientError, TimeoutError) as exc:
                # Usually the authority's ConfigMap, in a namespace that is a moment old.
                log.info("%s: volumes: %s; again", self.label, exc)
                await asyncio.sleep(RETRY)
            except Unsupported as exc:
                log.error("%s: %s", self.label, exc)
                return False
            else:
                break
        if self._stopping.is_set():
            return False
        self._hosts = write_hosts(self._folder, self._pod, self._network.ip)
        logs = self._machine.folder / "logs" / self._pod["metadata"]["namespace"]
        logs.mkdir(parents=True, exist_ok=True)
        try:
            self._containers = [
                Container(
                    spec,
                    policy=self._pod["spec"].get("restartPolicy", "Always"),
                    ip=self._network.ip,
                    make=partial(self._launch_spec, spec),
                    output=logs / f"{self._pod['metadata']['name']}.{spec['name']}.log",
                    changed=self._changed.set,
                )
                for spec in self._pod["spec"]["containers"]
            ]
        except Unsupported as exc:
            log.error("%s: %s", self.label, exc)
            return False
        self._changed.set()
        return True

    async def _run_containers(self) -> None:
        own_grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
        async with asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(container.run(self._stopping, self._grace, own_grace))

    def _grace(self) -> float:
        """Seconds from the deletion to SIGKILL."""
        return 0.0 if self._vanished else float(self._pod["metadata"].get("deletionGracePeriodSeconds", 0))

    def _launch_spec(self, spec: Object) -> Object:
        """What launcher.py needs for a container.

        Raises:
            LookupError: There is no such image, or no such field.
        """
        assert self._network is not None
        try:
            image = self._machine.images.find(spec["image"])
        except NoImage as exc:
            raise LookupError(str(exc)) from exc
        binds, writable = self._volumes.mounts(self._pod, spec)
        security = {**self._pod["spec"].get("securityContext", {}), **spec.get("securityContext", {})}
        user = security.get("runAsUser", image.user)
        if security.get("runAsNonRoot") and user == 0:
            raise LookupError("runAsNonRoot, and the user is root")
        status = self._status()
        root = self._folder / "root"
        root.mkdir(exist_ok=True)
        return {
            "root": str(root),
            "network": self._network.namespace,
            "hostname": self._pod["metadata"]["name"],
            "binds": [*image.binds, *self._hosts, *binds],
            "writable": writable,
            "read_only": security.get("readOnlyRootFilesystem", False),
            "user": user,
            "group": security.get("runAsGroup", user),
            "no_new_privileges": not security.get("allowPrivilegeEscalation", True),
            "folder": spec.get("workingDir", "/app"),
            "argv": [*spec.get("command", []), *spec.get("args", [])],
            "env": environment(
                {**self._pod, "status": status}, spec, self._machine.api.server, image.environment
            ),
        }

    async def _renew(self) -> None:
        """Write volumes anew: tokens in time, and Secrets that have changed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renewal):
                    await self._stale.wait()
            self._stale.clear()
            try:
                self._renewal = await self._volumes.make(self._pod)
            except (Refused, aiohttp.ClientError, TimeoutError) as exc:
                log.info("%s: volumes: %s; again", self.label, exc)
                self._renewal = 10.0

    def _status(self) -> Object:
        return pod_status(
            self._pod,
            self._containers,
            ip=self._network.ip if self._network else "",
            host=self._machine.ip,
            started=self._started,
        )

    async def _write_statuses(self) -> None:
        """Write the status each time it is another."""
        written: Object = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            status = self._status()
            if not same(status, written):
                await insist(self._write_status)
                written = status

    async def _write_status(self) -> None:
        body = {"metadata": {"uid": self._pod["metadata"]["uid"]}, "status": self._status()}
        await self._machine.api.request("PATCH", f"{self._path}/status", body, kind=STRATEGIC_MERGE)

    async def _remove(self) -> None:
        await self._machine.api.request(
            "DELETE",
            self._path,
            {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod["metadata"]["uid"]}},
        )


def same(one: Object, other: Object) -> bool:
    """Whether two statuses say the same, whenever they began to."""

    def timeless(status: Object) -> Object:
        conditions = [
            {key: value for key, value in condition.items() if key != "lastTransitionTime"}
            for condition in status.get("conditions", [])
        ]
        return {**status, "conditions": conditions}

    return timeless(one) == timeless(other)
