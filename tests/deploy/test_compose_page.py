"""docs/compose.md: its compose files, each container a process with a loopback address of its own.

There is no Docker in the tests. What a container is told (command and environment) is what its process
is told, but that names and `0.0.0.0` become addresses. `docker compose` itself is played, as far as the
page uses it.
"""

from __future__ import annotations

import random
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymicro.settings.config import load
from pymicro.settings.plugins import REGISTRIES, known
from tests.etcd_server import etcd_program
from tests.pages import Command, Page
from tests.processes import PATIENCE, Process, Processes

PAGE = Page("docs/compose.md")
FILES = ("compose.yaml", "compose.etcd.yaml")

linux = pytest.mark.skipif(sys.platform != "linux", reason="one loopback address only")

Object = dict[str, Any]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def merged(files: tuple[str, ...]) -> dict[str, Object]:
    """The services of these files, each over those before it, as compose merges the page's keys."""
    services: dict[str, Object] = {}
    for file in files:
        for name, added in yaml.safe_load(PAGE.files()[file])["services"].items():
            service = services.setdefault(name, {})
            environment = {**service.get("environment", {}), **added.get("environment", {})}
            service |= {**added, "environment": environment}
    return services


class Compose:
    """`docker compose`, with a process for each container.

    Args:
        folder: Where the page's files are.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self._processes = processes
        self._files: tuple[str, ...] = ("compose.yaml",)
        self._net = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self.running: dict[str, list[Process]] = {}
        self._addresses: dict[str, list[str]] = {}

    def run(self, command: Command) -> None:
        words = shlex.split(command.line)
        if words[0] == "export":
            self._files = tuple(words[1].removeprefix("COMPOSE_FILE=").split(":"))
            return
        assert words[:2] == ["docker", "compose"], command.line
        if words[2] == "up":
            scale = dict([words[words.index("--scale") + 1].split("=")])
            self.up({name: int(count) for name, count in scale.items()})
        elif words[2] == "exec":
            self.execute(words[3], words[4:], command)
        else:
            assert words[2:] == ["down"]
            self.down()

    def up(self, scale: dict[str, int]) -> None:
        services = merged(self._files)
        numbers = iter(range(1, 255))
        self._addresses = {
            name: [f"{self._net}.{next(numbers)}" for _ in range(scale.get(name, 1))] for name in services
        }
        for name, service in services.items():
            self.running[name] = [self._start(name, service, address) for address in self._addresses[name]]
        for name, started in self.running.items():
            ready = "ready to serve client requests" if name == "etcd" else rf"{name} 1\.0\.0 on 127\..*:8080"
            for process in started:
                process.wait_for(ready)

    def _start(self, name: str, service: Object, address: str) -> Process:
        words = shlex.split(service["command"])
        if name != "etcd":
            assert words[0] == "pymicro"
            environment = self._environment(service, address)
            return self._processes.pymicro(*words[1:], cwd=self.folder, **environment)
        assert words[0] == "etcd"
        there = {"0.0.0.0": address, "etcd": address, "/data": str(self.folder / "data")}
        words = [
            word.partition("=")[0] + "=" + _replaced(word.partition("=")[2], there) for word in words[1:]
        ]
        # For the other members, of which there are none.
        peers = "unix://peers:0"
        alone = (f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}")
        cluster = f"--initial-cluster=default={peers}"
        return self._processes.start(etcd_program(), *words, *alone, cluster, cwd=self.folder)

    def _environment(self, service: Object, address: str) -> dict[str, str]:
        environment = dict(service["environment"])
        there = {"0.0.0.0": address}
        environment["MICRO_SERVER_ADDRESS"] = _replaced(environment["MICRO_SERVER_ADDRESS"], there)
        entries = environment["MICRO_REGISTRY_ADDRESS"].split(",")
        resolved = [found for entry in entries for found in self._resolved(entry)]
        environment["MICRO_REGISTRY_ADDRESS"] = ",".join(resolved)
        return environment

    def _resolved(self, entry: str) -> Iterator[str]:
        """An entry for each container that has the name."""
        service, equals, place = entry.rpartition("=")
        host, _, port = place.partition(":")
        for address in self._addresses[host]:
            yield f"{service}{equals}{address}:{port}"

    def execute(self, name: str, words: list[str], command: Command) -> None:
        assert words[0] == "pymicro"
        environment = self._environment(merged(self._files)[name], self._addresses[name][0])
        done = self._processes.pymicro(*words[1:], cwd=self.folder, **environment)
        assert done.wait(PATIENCE) == 0, done.report()
        assert not command.output or command.printed(done.stdout), done.report()

    def down(self) -> None:
        """SIGTERM to all at once, as compose does; the services of pymicro's stop cleanly."""
        ending = [(name, process) for name, started in self.running.items() for process in started]
        for _, process in ending:
            process.signal(signal.SIGTERM)
        for name, process in ending:
            assert process.wait(PATIENCE) == 0 or name == "etcd", process.report()
        self.running.clear()


def _replaced(text: str, there: dict[str, str]) -> str:
    for name, address in there.items():
        text = text.replace(f"//{name}:", f"//{address}:")
        if text == name or text.startswith(f"{name}:"):
            text = address + text[len(name) :]
    return text


@pytest.fixture
def compose(tmp_path: Path, processes: Processes) -> Compose:
    """In a folder with the page's files, with the code that the image's build generates."""
    PAGE.write_files(tmp_path)
    build = yaml.safe_load(PAGE.files()["compose.yaml"])["x-service"]["build"]["dockerfile_inline"]
    (generating,) = [line for line in build.splitlines() if "pymicro gen" in line]
    words = shlex.split(generating)
    assert words[:2] == ["RUN", "pymicro"]
    generated = processes.pymicro(*words[2:], cwd=tmp_path)
    assert generated.wait(PATIENCE) == 0, generated.report()
    return Compose(tmp_path, processes)


def sessions() -> list[list[Command]]:
    """The blocks in which the shop is started and taken down."""
    return [
        block.commands for block in PAGE.blocks("text") if any("compose up" in c.line for c in block.commands)
    ]


@linux
@pytest.mark.parametrize("number", [0, 1], ids=["static", "etcd"])
def test_the_shop_runs_with_what_its_files_say(compose: Compose, number: int) -> None:
    commands = sessions()[number]
    assert len(sessions()) == 2
    assert commands[-1].line == "docker compose down"
    for command in commands:
        compose.run(command)
    assert not compose.running


def test_containers_listen_on_all_their_addresses_and_have_the_time_that_a_stop_takes() -> None:
    for files in (FILES[:1], FILES):
        services = merged(files)
        for name in ("stock", "till"):
            config = load(environ=services[name]["environment"])
            assert config.server_address == "0.0.0.0:8080"
            spare = seconds(services[name]["stop_grace_period"]) - config.stop_grace
            assert spare >= 5
            # A registry that is told of names meets new containers when a connection ends.
            assert config.max_connection_age == 30
        assert merged(files)["till"]["ports"] == ["127.0.0.1:8080:8080"]
    assert "ports" not in merged(FILES)["etcd"]


def test_the_registries_that_are_said_not_to_work_are_all_others() -> None:
    table = {line.split("|")[1].strip() for line in PAGE.text.splitlines() if line.startswith("| `")} - {
        "`registry`"
    }
    told = {name.strip("` ") for row in table for name in row.split(",")}
    # `memory` is for tests.
    assert told == set(known(REGISTRIES)) - {"memory"}
