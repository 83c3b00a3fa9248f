"""A pod's files: its volumes, /etc/hosts and /etc/resolv.conf.

Volumes that come from objects are written as a kubelet's AtomicWriter does it: the files are links into
`..data`, a link to a folder with the contents of one moment, which is swapped in one step.
"""

from __future__ import annotations

import base64
import os
import shutil
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
        """Make all volumes, or write anew what comes from objects; the seconds after which to do it again.

        Raises:
            Unsupported: A volume of another kind.
            Refused: A Secret, ConfigMap or account that is not there (yet).
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
        if "secret" in volume:
            wanted = volume["secret"]
            secret = await self._secret(pod, wanted["secretName"])
            write_all(folder, chosen(secret, wanted.get("items")))
            return None
        if "projected" in volume:
            files: dict[str, bytes] = {}
            lives = [await self._project(pod, files, source) for source in volume["projected"]["sources"]]
            write_all(folder, files)
            return min((life for life in lives if life is not None), default=None)
        raise Unsupported(f"volume {volume['name']}: neither emptyDir nor secret nor projected")

    async def _secret(self, pod: Object, name: str) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{name}"
        data = (await self._api.request("GET", path)).get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    async def _project(self, pod: Object, files: dict[str, bytes], source: Object) -> float | None:
        """Add the files of one source."""
        meta = pod["metadata"]
        base = f"/api/v1/namespaces/{meta['namespace']}"
        match source:
            case {"serviceAccountToken": wanted}:
                seconds = wanted.get("expirationSeconds", 3600)
                account = pod["spec"].get("serviceAccountName", "default")
                answer = await self._api.request(
                    "POST", f"{base}/serviceaccounts/{account}/token", token_request(meta, wanted, seconds)
                )
                files[wanted["path"]] = answer["status"]["token"].encode()
                return float(seconds)
            case {"secret": wanted}:
                files |= chosen(await self._secret(pod, wanted["name"]), wanted.get("items"))
            case {"configMap": wanted}:
                data = (await self._api.request("GET", f"{base}/configmaps/{wanted['name']}"))["data"]
                files |= chosen({key: text.encode() for key, text in data.items()}, wanted.get("items"))
            case {"downwardAPI": wanted}:
                for item in wanted["items"]:
                    files[item["path"]] = field(pod, item["fieldRef"]["fieldPath"]).encode()
            case _:
                raise Unsupported(f"projected volume of {', '.join(source)}")
        return None


def secrets_of(pod: Object) -> set[str]:
    """The names of the Secrets that its volumes show."""
    found: set[str] = set()
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume:
            found.add(volume["secret"]["secretName"])
        for source in volume.get("projected", {}).get("sources", []):
            if "secret" in source:
                found.add(source["secret"]["name"])
    return found


def chosen(data: dict[str, bytes], items: list[Object] | None) -> dict[str, bytes]:
    """All files, or those of `items` under their paths."""
    return data if items is None else {item["path"]: data[item["key"]] for item in items}


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Show these files and no others, all of them from one moment on; nothing is done if nothing changed."""
    data = folder / "..data"
    if data.is_symlink() and contents(data) == files:
        return
    before = folder / os.readlink(data) if data.is_symlink() else None
    new = folder / f"..{0 if before is None else int(before.name.removeprefix('..')) + 1}"
    for path, text in files.items():
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        (new / path).write_bytes(text)
        # The container's user is not ours.
        (new / path).chmod(0o644)
    new.mkdir(exist_ok=True)
    for name in {path.partition("/")[0] for path in files}:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    swapped = folder / "..data_tmp"
    swapped.symlink_to(new.name)
    os.replace(swapped, data)
    for link in folder.iterdir():
        if link.is_symlink() and link.name != "..data" and not link.exists():
            link.unlink()
    if before is not None:
        shutil.rmtree(before)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    # The container's user is not ours.
    new.chmod(0o644)
    os.replace(new, path)
