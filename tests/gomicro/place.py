"""A network namespace for peers that are plain processes: with them it ends, whatever was in it.

Loopback carries multicast there, as go-micro's mdns sends by the default route, and has an address that is
private, as a node in etcd must not be found at 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.cluster.cluster import run_ip
from tests.cluster.kubelet import network
from tests.cluster.plane import assets, ending_with_us
from tests.gomicro.peers import (
    TRANSPORT,
    Caller,
    go_caller,
    go_server,
    python_caller,
    python_server,
    transport,
)
from tests.processes import Process, Processes, clean_environment

ADDRESS = "10.246.0.1"


class Place:
    """Where processes run.

    Args:
        image: The folder that `make_image` filled.
        folder: For files of programs.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = str(image)
        self._folder = folder
        self._etcd: Process | None = None

    def __enter__(self) -> Self:
        self._descriptor = network.new_namespace()
        self.prefix = network.inside(network.path_of(self._descriptor))
        run_ip(
            [
                "link set lo up",
                f"address add {ADDRESS}/32 dev lo",
                "route add 224.0.0.0/4 dev lo src 127.0.0.1",
            ],
            self.prefix,
        )
        environment = clean_environment(PYTHONPATH=self._image)
        environment.pop(TRANSPORT, None)
        self._processes = Processes(environment)
        self._callers: list[Caller] = []
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.close()
        self._processes.end()
        os.close(self._descriptor)

    def start(self, *argv: str, **env: str) -> Process:
        """Start any program in it."""
        return self._processes.start(*ending_with_us(), *self.prefix, *argv, **env)

    def etcd(self) -> str:
        """The address of a real etcd, started when it is first asked for."""
        if self._etcd is None:
            client, peer = f"http://{ADDRESS}:2379", f"http://{ADDRESS}:2380"
            self._etcd = self.start(
                str(assets() / "etcd"),
                "--name=test",
                f"--data-dir={self._folder}/etcd",
                "--unsafe-no-fsync",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
            )
            self._etcd.wait_for("ready to serve client requests")
        return f"{ADDRESS}:2379"

    def server(self, language: str, name: str, ident: str, **env: str) -> Server:
        """A server in a language, once it is registered; settings are go-micro's variables."""
        settings = {
            "MICRO_SERVER_NAME": name,
            "MICRO_SERVER_ID": ident,
            "MICRO_SERVER_ADDRESS": f"{ADDRESS}:0",
            **env,
        }
        if language == "go":
            process = self.start(*go_server(self._image), **settings)
            address = process.wait_for(r"Listening on (\S+:\d+)")[1]
            process.wait_for("is registered")
            return Server(process, name, f"{name}-{ident}", address)
        process = self.start(*python_server(), **transport(), **settings)
        address = process.wait_for(rf"{re.escape(name)} .* on (\S+:\d+)")[1]
        return Server(process, name, ident, address)

    def run(self, *argv: str, **env: str) -> str:
        """Run `pymicro …` to its end; what it printed."""
        process = self.start(sys.executable, "-m", "pymicro", *argv, **transport(), **env)
        assert process.wait() == 0, process.report()
        return "\n".join(process.stdout)

    def go_caller(self, **env: str) -> Caller:
        """A client in Go."""
        return self._caller("the Go client", go_caller(self._image), env)

    def python_caller(self, **env: str) -> Caller:
        """A client in Python."""
        return self._caller("the Python client", python_caller(), {**transport(), **env})

    def _caller(self, name: str, argv: Sequence[str], env: dict[str, str]) -> Caller:
        caller = Caller(name, [*self.prefix, *argv], {**self._processes.environment, **env})
        self._callers.append(caller)
        return caller


class Server:
    """A running server.

    Attributes:
        node: The id of its node.
    """

    def __init__(self, process: Process, name: str, node: str, address: str) -> None:
        self.process = process
        self.name = name
        self.node = node
        self.address = address

    def touch(self) -> None:
        """Nothing: processes are not looked at."""

    def stop(self) -> None:
        """SIGTERM; it must end well."""
        assert self.process.stop() == 0, self.process.report()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process.kill() == -signal.SIGKILL
