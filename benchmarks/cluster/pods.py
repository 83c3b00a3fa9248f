"""Pods without a kubelet: objects whose status the benchmark writes itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

__all__ = ["Pods"]

# Requests in flight at a time; more only queue in the API server.
PARALLEL = 16

_MERGE = {"content-type": "application/merge-patch+json"}


class Pods:
    """Makes and changes pods through the API server.

    Args:
        url: The API server.
        headers: What authorizes the requests.
        kubeconfig: Path of the file the followers use.
        namespace: Where the pods live.
    """

    def __init__(self, url: str, headers: Mapping[str, str], kubeconfig: str, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._url = url
        self._headers = headers
        self._addresses: dict[str, str] = {}
        self._turn = asyncio.Semaphore(PARALLEL)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._url, headers=self._headers, connector=aiohttp.TCPConnector(ssl=False, limit=PARALLEL)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    def address(self, name: str) -> str:
        """The IP of the pod."""
        return self._addresses[name]

    async def create(self, service: str, count: int, *, port: int = 8080) -> Sequence[str]:
        """Make `count` ready pods labelled for `service`; their names.

        Their addresses are 127.x.y.z, all of this machine: a server that listens
        everywhere answers for each of them.
        """
        names = [f"{service}-{number:05}" for number in range(count)]
        self._addresses = {
            name: f"127.1.{number // 250}.{1 + number % 250}" for number, name in enumerate(names)
        }
        await asyncio.gather(*(self._create(service, name, port) for name in names))
        return names

    async def make(self, pod: Mapping[str, Any]) -> None:
        """Make a pod as it is written, its status too."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/pods"
        await self._send("POST", path, pod)
        await self._send("PATCH", f"{path}/{name}/status", {"status": pod["status"]}, _MERGE)

    async def change(self, pod: Mapping[str, Any], number: int) -> None:
        """Write the pod's status once more, with something else in it."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        body = {"status": {"message": f"change {number:06}"}}
        await self._send("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", body, _MERGE)

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Make any object."""
        await self._send("POST", path, body)

    async def set_ready(self, name: str, ready: bool) -> None:
        """Write the pod's Ready condition."""
        await self._send("PATCH", f"{self._pods}/{name}/status", self._status(name, ready), _MERGE)

    async def delete(self, name: str, *, grace: int | None = None) -> None:
        """Ask for the pod's deletion; one that is bound to a node stays, terminating, for `grace` seconds."""
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        await self._send("DELETE", f"{self._pods}/{name}", body)

    async def delete_all(self, service: str) -> None:
        """Remove every pod of `service` at once."""
        selector = f"labelSelector=micro.mu/selector-{service}%3Dservice"
        await self._send("DELETE", f"{self._pods}?{selector}&gracePeriodSeconds=0", {})

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def _create(self, service: str, name: str, port: int) -> None:
        labels = {"micro.mu/type": "service", f"micro.mu/selector-{service}": "service"}
        pod = {
            "metadata": {"name": name, "labels": {**labels, "app.kubernetes.io/version": "1.0.0"}},
            "spec": {
                "nodeName": "bench",
                "automountServiceAccountToken": False,
                "containers": [
                    {"name": "main", "image": "bench", "ports": [{"name": "grpc", "containerPort": port}]}
                ],
            },
        }
        await self._send("POST", self._pods, pod)
        await self.set_ready(name, True)

    def _status(self, name: str, ready: bool) -> Mapping[str, Any]:
        ip = self._addresses[name]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
        return {"status": status}

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        async with self._turn, self._session.request(method, path, json=body, headers=headers) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
