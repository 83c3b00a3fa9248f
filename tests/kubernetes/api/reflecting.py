"""A reflector at work on an API server, and what it shows to those who follow it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.fakes.kube_api import FakeKubeApi

__all__ = [
    "PATIENCE",
    "QUICK",
    "Pod",
    "Reflection",
    "Time",
    "least",
    "lists",
    "most",
    "quick",
    "read_pod",
    "reflecting",
]

PATIENCE = 10.0

# Seconds become hundredths; no number is so small that a busy machine makes it a failure.
QUICK = ReflectorTiming(
    stream_list_wait=3.0,
    stream_list_retry=60.0,
    idle_limit=1.0,
    backoff_initial=0.01,
    backoff_maximum=0.1,
    short_watch=0.01,
    gather=0.005,
)


def quick(**changes: Any) -> ReflectorTiming:
    """`QUICK` with something else in it."""
    return dataclasses.replace(QUICK, **changes)


def most(_: float, high: float) -> float:
    """Randomness that always takes the longest."""
    return high


def least(low: float, _: float) -> float:
    """Randomness that always takes the shortest."""
    return low


def lists(api: FakeKubeApi) -> int:
    """How often everything was asked for, as a stream or in pages."""
    return sum(
        "sendInitialEvents" in one.query or (one.verb == "list" and "continue" not in one.query)
        for one in api.requests
    )


class Time:
    """A clock that moves when somebody sleeps, and at no other time.

    Attributes:
        now: What the clock shows, in seconds.
        pauses: What was slept, in order.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Pod:
    """What is kept of a pod here.

    Attributes:
        note: Its annotation `note`.
    """

    name: str
    ip: str = ""
    terminating: bool = False
    note: str = ""


def read_pod(found: Mapping[str, Any]) -> Pod | None:
    """A `parse`: pods named `dull-…` are not of interest, those annotated `bad` cannot be read."""
    metadata = found["metadata"]
    annotations = metadata.get("annotations", {})
    if "bad" in annotations:
        raise ValueError(annotations["bad"])
    if metadata["name"].startswith("dull"):
        return None
    return Pod(
        metadata["name"],
        found["status"].get("podIP", ""),
        "deletionTimestamp" in metadata,
        annotations.get("note", ""),
    )


@dataclass
class Reflection:
    """A running reflector, and one who follows it.

    Attributes:
        shown: Every mapping that was shown, uid → pod, as it was then.
        failures: Every failure that was told; the follower comes back after each.
    """

    reflector: Reflector[Pod]
    shown: list[dict[str, Pod]] = field(default_factory=list)
    failures: list[KubeError] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def names(self) -> set[str] | None:
        """Names in the newest mapping; None before the first."""
        return {one.name for one in self.shown[-1].values()} if self.shown else None

    async def follow(self) -> None:
        while True:
            try:
                async for mapping in self.reflector.follow():
                    self.shown.append(dict(mapping))
                    self._tell()
            except KubeError as exc:
                self.failures.append(exc)
                self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def until(
        self, condition: Callable[[], bool], what: str = "the condition", within: float = PATIENCE
    ) -> None:
        """Wait until `condition` holds; looked at after each mapping and failure."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    await self._news.wait()
        assert condition(), (
            f"not within {within:g} s: {what}; shown: {self.names}, "
            f"{len(self.shown)} times, {self.reflector.state}"
        )

    async def shows(self, *names: str) -> None:
        """Wait until the newest mapping has exactly these pods."""
        await self.until(lambda: self.names == set(names), f"pods {set(names)}")

    async def has(self, name: str) -> None:
        """Wait until the newest mapping has this pod, whatever else it has."""
        await self.until(lambda: name in (self.names or ()), f"pod {name}")

    async def hears_until_now(self, api: FakeKubeApi) -> None:
        """Let the API server send bookmarks until the reflector knows the newest version."""
        newest = str(api.store.version)
        async with asyncio.timeout(PATIENCE):
            while self.reflector.state.resource_version != newest:
                api.bookmark()
                await asyncio.sleep(0.001)

    async def opens(self, count: int) -> None:
        """Wait until the reflector has had so many watches open; each one is published."""
        await self.until(lambda: self.reflector.state.watches >= count, f"{count} watches")

    async def fails(self, status: int | None = None) -> KubeError:
        """Wait for a failure after now (with this status), and return it."""
        before = len(self.failures)

        def told() -> list[KubeError]:
            return [one for one in self.failures[before:] if status in (None, one.status)]

        await self.until(lambda: bool(told()), f"a failure with status {status}")
        return told()[0]


@contextlib.asynccontextmanager
async def reflecting(
    api: FakeKubeApi,
    *,
    namespace: str | None = "default",
    labels: str = "",
    timing: ReflectorTiming = QUICK,
    moment: Time | None = None,
    uniform: Callable[[float, float], float] | None = None,
    address: str = "",
    parse: Callable[[Mapping[str, Any]], Pod | None] = read_pod,
) -> AsyncIterator[Reflection]:
    """A reflector of the pods of `api`, running and followed until the end of the block.

    Args:
        moment: Clock and sleep; the real ones if None.
        uniform: Randomness; seeded if None.
        address: As the setting registry_address; the server's URL if empty.
    """
    async with (
        KubeClient(lambda: find_cluster((address or api.url,), environ={})) as client,
        Tasks("reflection") as tasks,
    ):
        reflector = Reflector(
            client,
            ObjectQuery(PODS, namespace, labels),
            parse,
            timing=timing,
            clock=moment.clock if moment else time.monotonic,
            sleep=moment.sleep if moment else asyncio.sleep,
            uniform=uniform or random.Random(7).uniform,
        )
        reflection = Reflection(reflector)
        tasks.start(reflector.run(), "run")
        tasks.start(reflection.follow(), "follow")
        yield reflection
