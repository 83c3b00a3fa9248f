"""The node: takes pods, runs them, and serves names and ClusterIPs."""

from __future__ import annotations

import asyncio
import logging

from tests.cluster.kubelet.api import Api, Object, insist
from tests.cluster.kubelet.dns import NameServer
from tests.cluster.kubelet.network import GATEWAY
from tests.cluster.kubelet.pod import Machine, Pod
from tests.cluster.kubelet.proxy import Proxy
from tests.cluster.kubelet.services import Backends, Services

log = logging.getLogger("kubelet")

NAME = "node-1"
ZONE = "zone-1"


class Node:
    """One node of the cluster, and its only one: it binds pods to itself, for there is no scheduler."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._api: Api = machine.api
        self._pods: dict[str, Pod] = {}
        self._tasks: asyncio.TaskGroup
        self._binding: set[str] = set()
        self._names = NameServer()
        self._proxy = Proxy()

    async def run(self) -> None:
        """Until cancelled. Processes of pods are left to the kernel, which ends them with this one."""
        await self._machine.network.prepare()
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self._names, local_addr=(GATEWAY, 53))
        await self._register()
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._proxy.run(), name="proxy")
            self._tasks.create_task(Services(self._api, self._route).run(), name="services")
            self._tasks.create_task(self._follow_secrets(), name="secrets")
            async for pods in self._api.follow("/api/v1/pods"):
                self._see(pods)

    async def _register(self) -> None:
        """Make the Node object: the EndpointSlice controller leaves out pods of a node that is not there."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": NAME,
                "labels": {"kubernetes.io/hostname": NAME, "topology.kubernetes.io/zone": ZONE},
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": self._machine.ip}],
            },
        }
        await self._api.request("POST", "/api/v1/nodes", node)
        log.info("node %s at %s", NAME, self._machine.ip)

    def _route(self, services: list[Backends]) -> None:
        self._names.update(services)
        self._proxy.update(services)

    def _see(self, pods: dict[str, Object]) -> None:
        """Follow all pods of the cluster."""
        for uid, pod in pods.items():
            if pod["spec"].get("nodeName") == NAME:
                if uid not in self._pods:
                    self._pods[uid] = taken = Pod(self._machine, pod)
                    self._tasks.create_task(self._run(taken), name=f"pod {taken.label}")
                self._pods[uid].update(pod)
            elif not pod["spec"].get("nodeName") and uid not in self._binding:
                self._binding.add(uid)
                self._tasks.create_task(self._bind(pod["metadata"]), name=f"binding {uid}")
        self._binding &= pods.keys()
        for uid in self._pods.keys() - pods.keys():
            # Usually its own doing, and its task has ended.
            self._pods.pop(uid).vanish()

    async def _follow_secrets(self) -> None:
        """Have pods write their volumes anew when a Secret changes; a real kubelet takes up to a minute."""
        seen: dict[str, str] = {}
        async for secrets in self._api.follow("/api/v1/secrets"):
            now = {uid: secret["metadata"]["resourceVersion"] for uid, secret in secrets.items()}
            for uid, version in now.items():
                if seen.get(uid) != version:
                    meta = secrets[uid]["metadata"]
                    for pod in self._pods.values():
                        pod.secret_changed(meta["namespace"], meta["name"])
            seen = now

    async def _run(self, pod: Pod) -> None:
        try:
            await pod.run()
        except Exception:
            # Of this pod only: a test that waits for it finds this in the log.
            log.exception("%s cannot be run", pod.label)

    async def _bind(self, meta: Object) -> None:
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        body = {"metadata": {"name": meta["name"]}, "target": {"kind": "Node", "name": NAME}}
        await insist(lambda: self._api.request("POST", path, body))
