"""What the tests of credentials share: tokens, a service account's folder, kubeconfigs, a clock."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.kubernetes.api.certificates import OLD_CA
from tests.kubernetes.api.serving import hello


def token(name: str = "greeter", serial: int = 0) -> str:
    """A token as Kubernetes makes them, but for its signature."""
    claims = {"sub": f"system:serviceaccount:shop:{name}", "serial": serial}
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b"{}", json.dumps(claims).encode(), b"s")
    )


class Account:
    """A service account's folder: files behind a symbolic link, which a rotation replaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._serial = 0
        folder.mkdir()
        for name in ("token", "ca.crt", "namespace"):
            (folder / name).symlink_to(Path("..data") / name)
        self.rotate(token(), OLD_CA)

    def rotate(self, token: str, ca: str = OLD_CA) -> None:
        self._serial += 1
        data = self.folder / f"..{self._serial}"
        data.mkdir()
        (data / "token").write_text(token)
        (data / "ca.crt").write_text(ca)
        (data / "namespace").write_text("shop")
        link = self.folder / "..new"
        link.symlink_to(data.name)
        link.replace(self.folder / "..data")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def only(*tokens: str) -> Any:
    """Lets in who has one of these tokens."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") not in [f"Bearer {one}" for one in tokens]:
            return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)
        return await hello(request)

    return answer


def write(folder: Path, name: str = "config", **changes: Any) -> str:
    """A kubeconfig with one context; `cluster` and `user` are its sections."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "ada", "namespace": "garden"}}],
        "clusters": [{"name": "c", "cluster": changes.pop("cluster")}],
        "users": [{"name": "ada", "user": changes.pop("user", {})}],
        **changes,
    }
    path = folder / name
    # JSON is YAML.
    path.write_text(json.dumps(document))
    return str(path)


def data(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()
