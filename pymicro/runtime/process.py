"""A process and its signals: it serves until one comes, and a second one hurries the stop."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymicro.base.errors import ConfigError, PymicroError
from pymicro.base.loggers import logger
from pymicro.runtime.life import Life
from pymicro.runtime.lingering import leave

__all__ = ["Process", "check_place", "hurried_by_interrupts"]

log = logger("pymicro")


def check_place(name: str) -> None:
    """Check that `run` of the service of this name can work here.

    Raises:
        PymicroError: It cannot; the text says what to write instead.
    """
    instead = "write `async with service:` in a coroutine"
    if asyncio._get_running_loop() is not None:
        raise PymicroError(
            f"run() of {name} makes an event loop, and one runs here already: {instead}, "
            "or call run() outside of any"
        )
    if threading.current_thread() is not threading.main_thread():
        raise PymicroError(
            f"run() of {name} handles signals, which only the main thread can: call it there, or {instead}"
        )


class Process:
    """A process that is there for one service.

    Args:
        name: The service's, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stopped_since: float | None = None

    def left_of(self, grace: float) -> float:
        """Seconds that are left of the grace, of so many, with which a stop began; 0 if none began."""
        if self._stopped_since is None:
            return 0.0
        return max(self._stopped_since + grace - time.monotonic(), 0.0)

    async def live(self, life: Life, *, interrupts: bool) -> int:
        """Live until a signal, and return the exit code.

        Args:
            life: Of the service; not started.
            interrupts: Whether to answer SIGINT too.

        Raises:
            ConfigError: A mistake in the user's input.
        """
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        received: list[signal.Signals] = []
        # One task starts and stops, because the task that enters `lifespan` must also leave it.
        living = asyncio.create_task(_live(life, stopping), name=f"life of {self._name}")

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            self._stopped_since = self._stopped_since or time.monotonic()
            if len(received) > 2:  # a stop hook hangs, say, which nothing else would end
                log.warning("%s received, the third signal: %s ends at once", number.name, self._name)
                leave(128 + number)
            if len(received) > 1:
                life.hurry()
                return
            log.info("%s received, stopping", number.name)
            stopping.set()
            if not life.started:
                living.cancel()

        signals = [signal.SIGTERM, signal.SIGINT] if interrupts else [signal.SIGTERM]
        for number in signals:
            loop.add_signal_handler(number, on_signal, number)
        try:
            await living
        except asyncio.CancelledError:
            if not received:
                raise
        except ConfigError:
            raise  # a mistake in the user's input, which run() reports
        except PymicroError as exc:
            log.error("%s could not start: %s", self._name, exc)
            return 1
        except Exception:
            log.exception("%s %s", self._name, "failed" if life.started else "could not start")
            return 1
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
        if len(received) > 1:
            return 128 + received[1]
        log.info("%s has stopped", self._name)
        if life.interrupted:
            return 128 + signal.SIGINT
        return 1 if life.broken.is_set() else 0


async def _live(life: Life, stopping: asyncio.Event) -> None:
    """Run from start to stop, in one task."""
    await life.start()
    waits = [
        asyncio.create_task(stopping.wait(), name="wait for a signal"),
        asyncio.create_task(life.broken.wait(), name="wait for a broken server"),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await life.stop()


@contextmanager
def hurried_by_interrupts(life: Life) -> Iterator[None]:
    """Let Ctrl-C hurry the stop of a service inside `asyncio.run`.

    At a second Ctrl-C `asyncio.run` raises KeyboardInterrupt wherever the loop stands. Inside
    grpc's callbacks that is lost, or ends the process by a segmentation fault.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, functools.partial) or not isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    ):
        yield  # the program answers the signal itself
        return
    main: asyncio.Task[Any] = handler.keywords["main_task"]
    received: list[int] = []

    def on_interrupt() -> None:
        received.append(signal.SIGINT)
        life.hurry()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, handler)
        if received and not main.cancelling():
            handler(signal.SIGINT, None)  # the first one: it ends the program, now that all is closed
