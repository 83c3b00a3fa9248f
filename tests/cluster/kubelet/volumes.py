"""A pod's files: its volumes, /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.api import Api, Object
from tests.cluster.kubelet.environment import field
from tests.cluster.kubelet.network import GATEWAY

# Real kubelets renew a token at 80 % of its life or after a day, and look every minute or so.
RENEW_AT = 0.8


class Unsupported(Exception):
    """The pod asks for something that this kubelet has not."""


class Volumes:
    """The folders behind a pod's volumes, which outlive its containers."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder

    async def make(self, pod: Object) -> float | None:
        """Make all volumes, or write the projected ones anew; the seconds after which to do it again.

        Raises:
            Unsupported: A volume of another kind.
            Refused: A ConfigMap or account that is not there (yet).
        """
        lives = [await self._make(pod, volume) for volume in pod["spec"].get("volumes", [])]
        return min((life * RENEW_AT for life in lives if life is not None), default=None)

    def mounts(self, pod: Object, container: Object) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """What is bound into a container: pairs of source and target, read-only ones and writable ones."""
        empty = {volume["name"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume}
        binds: list[tuple[str, str]] = []
        writable: list[tuple[str, str]] = []
        for mount in container.get("volumeMounts", []):
            pair = (str(self._folder / mount["name"]), mount["mountPath"])
            (writable if mount["name"] in empty and not mount.get("readOnly") else binds).append(pair)
        return binds, writable

    async def _make(self, pod: Object, volume: Object) -> float | None:
        folder = self._folder / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            folder.chmod(0o1777)
            return None
        if "projected" in volume:
            lives = [await self._project(pod, folder, source) for source in volume["projected"]["sources"]]
            return min((life for life in lives if life is not None), default=None)
        raise Unsupported(f"volume {volume['name']}: neither emptyDir nor projected")

    async def _project(self, pod: Object, folder: Path, source: Object) -> float | None:
        meta = pod["metadata"]
        base = f"/api/v1/namespaces/{meta['namespace']}"
        match source:
            case {"serviceAccountToken": wanted}:
                seconds = wanted.get("expirationSeconds", 3600)
                account = pod["spec"].get("serviceAccountName", "default")
                answer = await self._api.request(
                    "POST", f"{base}/serviceaccounts/{account}/token", token_request(meta, wanted, seconds)
                )
                replace(folder / wanted["path"], answer["status"]["token"])
                return float(seconds)
            case {"configMap": wanted}:
                data = (await self._api.request("GET", f"{base}/configmaps/{wanted['name']}"))["data"]
                for item in wanted["items"]:
                    replace(folder / item["path"], data[item["key"]])
            case {"downwardAPI": wanted}:
                for item in wanted["items"]:
                    replace(folder / item["path"], field(pod, item["fieldRef"]["fieldPath"]))
            case _:
                raise Unsupported(f"projected volume of {', '.join(source)}")
        return None


def token_request(meta: Object, wanted: Object, seconds: int) -> Object:
    """The request for a token that is good as long as the pod is there."""
    spec: dict[str, Any] = {
        "expirationSeconds": seconds,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
    }
    if wanted.get("audience"):
        spec["audiences"] = [wanted["audience"]]
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def write_hosts(folder: Path, pod: Object, ip: str) -> list[tuple[str, str]]:
    """/etc/hosts and /etc/resolv.conf as every pod has them; what to bind."""
    namespace = pod["metadata"]["namespace"]
    replace(folder / "hosts", f"127.0.0.1 localhost\n::1 localhost\n{ip} {pod['metadata']['name']}\n")
    search = f"{namespace}.svc.cluster.local svc.cluster.local cluster.local"
    replace(folder / "resolv.conf", f"nameserver {GATEWAY}\nsearch {search}\noptions ndots:5\n")
    return [(str(folder / name), f"/etc/{name}") for name in ("hosts", "resolv.conf")]


def replace(path: Path, text: str) -> None:
    """Write a file in one step: who reads it finds the old text or the new one."""
    with staged(path) as new:
        new.write_text(text)
        # The container's user is not ours.
        new.chmod(0o644)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A new file that takes the place of `path` at the end."""
    new = path.with_name(f".{path.name}.new")
    yield new
    os.replace(new, path)
