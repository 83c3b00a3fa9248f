"""One container of a pod: its process, its probes, and its next process when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.api import Object
from tests.cluster.kubelet.probes import Probe

log = logging.getLogger("kubelet.container")

LAUNCHER = Path(__file__).with_name("launcher.py")

# Seconds before a container's second restart (the first comes at once), doubled for each after it, and the
# most. Kubernetes has 10 s and 5 min; tests cannot wait for that.
BACKOFF = (0.5, 8.0)
# A process that lived this long was well, and the row starts anew. Kubernetes: 10 min.
WELL = 30.0


class LaunchFailed(Exception):
    """A container's process could not be started."""


def now() -> str:
    """This moment as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Process:
    """A container's process that was started.

    Attributes:
        pid: Its process id on this machine; inside it is 1.
        parent: The launcher, whose exit code is the process's.
    """

    pid: int
    parent: asyncio.subprocess.Process
    started: str

    @classmethod
    async def launch(cls, spec: Object, output: Path) -> Process:
        """Start what `spec` says (see launcher.py); output is appended to a file.

        Raises:
            LaunchFailed: It cannot be.
        """
        reading, writing = os.pipe()
        try:
            with output.open("ab") as log_file:
                parent = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(LAUNCHER), json.dumps({**spec, "report": writing})),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
        finally:
            os.close(writing)
        with os.fdopen(reading) as report:
            lines = (await asyncio.to_thread(report.read)).split("\n")
        pids = [line for line in lines if line.isdecimal()]
        errors = [line for line in lines if line and not line.isdecimal()]
        if errors or not pids:
            code = await parent.wait()
            raise LaunchFailed("; ".join(errors) or f"the launcher ended with {code}")
        return cls(int(pids[0]), parent, now())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.parent.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        if grace:
            self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await self.parent.wait()
            except TimeoutError:
                log.info("pid %s outlived its grace of %g s", self.pid, grace)
        self.signal(signal.SIGKILL)
        await self.parent.wait()


class Container:
    """A container from its first start to its last end.

    Args:
        spec: One of the pod's `spec.containers`.
        policy: `spec.restartPolicy`.
        ip: Where it is probed.
        make: What launcher.py is given; asked before each start.
        output: The file its output goes to.
        changed: Called when `status()` is another.
    """

    def __init__(
        self,
        spec: Object,
        *,
        policy: str,
        ip: str,
        make: Callable[[], Object],
        output: Path,
        changed: Callable[[], None],
    ) -> None:
        self.name: str = spec["name"]
        self.ready = False
        self.restarts = 0
        self._image: str = spec["image"]
        self._policy = policy
        self._ip = ip
        self._make = make
        self._output = output
        self._changed = changed
        probes = {kind: spec.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness")}
        self._probes = {kind: Probe.parse(probe) for kind, probe in probes.items() if probe is not None}
        self._started = False
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: Object = {}
        self._id = ""
        self._unwell = asyncio.Event()

    async def run(self, stopping: asyncio.Event, grace: Callable[[], float], own_grace: float) -> None:
        """Keep it running, until its policy is content or `stopping` is set and it has ended.

        Args:
            stopping: The pod is being deleted.
            grace: Seconds that the deletion leaves it.
            own_grace: Seconds that it has when its liveness probe fails.
        """
        pause = 0.0
        while not stopping.is_set():
            begun = asyncio.get_running_loop().time()
            try:
                process = await Process.launch(self._make(), self._output)
            except (LaunchFailed, LookupError) as exc:
                log.warning("%s: %s", self.name, exc)
                self._set(waiting={"reason": "CreateContainerError", "message": str(exc)})
                code = 128
            else:
                code = await self._live(process, stopping, grace, own_grace)
            if stopping.is_set() or self._policy == "Never" or (self._policy == "OnFailure" and code == 0):
                return
            if asyncio.get_running_loop().time() - begun > WELL:
                pause = 0.0
            if "terminated" in self._state:
                self._last_state = self._state
                self.restarts += 1
            if pause:
                self._set(waiting={"reason": "CrashLoopBackOff", "message": f"back-off {pause:g} s"})
                await _either(stopping, pause)
            pause = min(max(pause * 2, BACKOFF[0]), BACKOFF[1])

    @property
    def done(self) -> Object | None:
        """How it ended, if it has."""
        found: Object | None = self._state.get("terminated")
        return found

    def status(self) -> Object:
        """Its entry of `status.containerStatuses`."""
        return {
            "name": self.name,
            "image": self._image,
            "imageID": self._image,
            "containerID": self._id,
            "ready": self.ready,
            "started": self._started,
            "restartCount": self.restarts,
            "state": self._state,
            "lastState": self._last_state,
        }

    def _set(self, **state: Any) -> None:
        self._state = state
        self._changed()

    async def _live(
        self, process: Process, stopping: asyncio.Event, grace: Callable[[], float], own_grace: float
    ) -> int:
        """One process from start to end; its exit code."""
        self._unwell.clear()
        self._id = f"process://{process.pid}"
        self._started = "startup" not in self._probes
        self.ready = self._started and "readiness" not in self._probes
        self._set(running={"startedAt": process.started})
        probing = asyncio.create_task(self._probe(), name=f"probes of {self.name}")
        ended = asyncio.create_task(process.parent.wait(), name=f"wait for {self.name}")
        stop = asyncio.create_task(stopping.wait(), name=f"stop of {self.name}")
        unwell = asyncio.create_task(self._unwell.wait(), name=f"liveness of {self.name}")
        helpers = {probing, stop, unwell}
        try:
            await asyncio.wait({ended, stop, unwell}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                # Readiness is probed on: whoever says NOT_SERVING while it drains is seen to.
                await process.stop(grace() if stopping.is_set() else own_grace)
            code = await ended
        finally:
            for task in helpers:
                task.cancel()
            await asyncio.wait(helpers)
        self.ready = self._started = False
        self._set(
            terminated={
                "exitCode": code,
                "reason": "Completed" if code == 0 else "Error",
                "startedAt": process.started,
                "finishedAt": now(),
                "containerID": self._id,
            }
        )
        return code

    async def _probe(self) -> None:
        if "startup" in self._probes:
            decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

            def decide(good: bool) -> None:
                if not decided.done():
                    decided.set_result(good)

            starting = asyncio.create_task(self._probes["startup"].run(self._ip, decide))
            try:
                if not await decided:
                    self._fail(False)
                    return
            finally:
                starting.cancel()
                await asyncio.wait([starting])
            self._started = True
            self.ready = "readiness" not in self._probes
            self._changed()
        async with asyncio.TaskGroup() as group:
            if "readiness" in self._probes:
                group.create_task(self._probes["readiness"].run(self._ip, self._set_ready))
            if "liveness" in self._probes:
                group.create_task(self._probes["liveness"].run(self._ip, self._fail))

    def _set_ready(self, good: bool) -> None:
        if good != self.ready:
            log.info("%s at %s is %s", self.name, self._ip, "ready" if good else "not ready")
            self.ready = good
            self._changed()

    def _fail(self, good: bool) -> None:
        """Liveness, or startup, has been decided."""
        if not good:
            log.info("%s at %s is taken for dead", self.name, self._ip)
            self._unwell.set()


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most some seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
