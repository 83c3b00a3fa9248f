"""A real Prometheus: what it scrapes stands fixed from its start, what it knows is asked by its HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import Process, clean_environment
from tests.telemetry.real.loopback import network

__all__ = ["INTERVAL", "Place", "Prometheus", "Sample", "program"]

# Seconds between two scrapes of each process.
INTERVAL = 0.5
# Seconds: only a failure waits so long.
PATIENCE = 60.0
# Seconds between two questions of `until`.
PAUSE = 0.1


def program(name: str) -> str:
    """The path in the variable of this name; without one the tests fail, and say how to get it."""
    path = os.environ.get(name, "")
    assert path, f"{name} is not set: run these tests by `make test-telemetry`, which gets the program"
    return path


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process has its admin port, from the first scrape on or later.

    Attributes:
        address: `host:port`.
        job: The name of its service.
        node: Its own name, which no other process ever gets.
    """

    address: str
    job: str
    node: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of an answer."""

    labels: Mapping[str, str]
    value: float

    def __getitem__(self, label: str) -> str:
        return self.labels.get(label, "")


class Prometheus:
    """A server that runs while the context is open.

    Args:
        folder: For its data and settings.
        places: What it scrapes; a process that is not there yet, or no more, is down.
        rules: A file of rules that it evaluates every second.
        host: Of this run's network: two servers at a time need two.
    """

    def __init__(self, folder: Path, places: Sequence[Place], rules: Path, *, host: int = 2) -> None:
        self._folder = folder
        self._process: Process | None = None
        self._address = f"{network()}.0.{host}:9090"
        every = f"{round(INTERVAL * 1000)}ms"
        settings = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "scene",
                    "static_configs": [
                        {"targets": [place.address], "labels": {"job": place.job, "node": place.node}}
                        for place in places
                    ],
                }
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(settings, indent=1))

    def __enter__(self) -> Self:
        argv = [
            program("PROMETHEUS"),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--enable-feature=exemplar-storage",
        ]
        self._process = Process(argv, env=clean_environment(), cwd=self._folder)
        self._process.wait_for("Server is ready to receive web requests")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()

    @property
    def url(self) -> str:
        """Of its HTTP API."""
        return f"http://{self._address}"

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of what it answers to GET `/api/v1/PATH`; a list becomes several parameters."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError(
                    f"Prometheus refused {path} {parameters}: {exc.read().decode()}"
                ) from None

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """What an expression is, now or at a moment of `time.time()`."""
        data = self.ask("query", query=expression, time=at or time.time())
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """The one value of an expression; 0 if it has none, as the sum of no series."""
        found = self.query(expression, at)
        assert len(found) <= 1, f"{expression} has {len(found)} values"
        return found[0].value if found else 0.0

    def query_range(
        self, expression: str, begin: float, end: float, step: float = 1.0
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """What an expression was: each series with its moments and values."""
        data = self.ask("query_range", query=expression, start=begin, end=end, step=step)
        return [
            (each["metric"], [(float(at), float(value)) for at, value in each["values"]])
            for each in data["result"]
        ]

    async def until(
        self,
        expression: str,
        holds: Callable[[list[Sample]], bool] = bool,
        *,
        meanwhile: Callable[[], Any] | None = None,
    ) -> list[Sample]:
        """The answer, once it is as wanted.

        Args:
            expression: It is asked again and again.
            holds: Whether it is as wanted; any answer that is not empty, if not given.
            meanwhile: Called before each question, and awaited: what makes it come true.
        """
        found: list[Sample] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    if meanwhile is not None:
                        await meanwhile()
                    found = await asyncio.to_thread(self.query, expression)
                    if holds(found):
                        return found
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise AssertionError(f"after {PATIENCE:g} s {expression} is still {found}") from None
