"""The event loop of all synchronous clients of a process, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - it cannot be imported any more when the main thread has ended
import contextlib
import os
import queue
import sys
import threading
import time
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pymicro.base.durations import time_limit
from pymicro.base.errors import PymicroError
from pymicro.base.grpc_loops import keep_for_sync_clients
from pymicro.base.loggers import logger
from pymicro.rpc.scope import current_scope
from pymicro.runtime.loops import loop_factory

__all__ = ["Latch", "LoopThread", "LoopUser", "forked", "loop_thread"]

log = logger("pymicro.client")

# Seconds that open clients have to close when the process ends.
PATIENCE = 2.0

T = TypeVar("T")


class Latch:
    """Set once, in one thread; others wait for it."""

    __slots__ = ("_lock", "is_set")

    def __init__(self) -> None:
        # A lock is the cheapest thing that a signal can interrupt.
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        """Let all go on who wait, now or later; call it once."""
        self.is_set = True
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Return once it is set, or False after `timeout` seconds."""
        if self.is_set:
            return True
        limit = time_limit(timeout)
        if not self._lock.acquire(timeout=-1 if limit is None else max(0.0, limit)):
            return False
        self._lock.release()  # for the next who waits
        return True


class LoopThread:
    """An event loop that runs in a thread, from its first use on.

    The thread is a daemon: it never keeps a process alive, and `stop` ends it in bounded time.

    Nothing here that a user's thread does holds a lock: a signal's handler, or `__del__` of garbage,
    may come at any point of it, and call or raise.

    Args:
        loop: The setting `loop`.

    Attributes:
        loop: The loop.
        lost: Whether this process is a fork of the one in which the thread runs.
        ending: Whether the process ends. Only daemons wait for calls then. Python stops them in the
            middle of whatever they do, so they are told nothing more: an error would be noise.
        at_exit: Functions that begin the end of what is open, called in the loop when the process ends.
    """

    def __init__(self, loop: str) -> None:
        self.loop = (loop_factory(loop) or asyncio.new_event_loop)()
        self.lost = False
        self.ending = False
        self.at_exit: set[Callable[[], Awaitable[object]]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._callbacks: queue.SimpleQueue[Callable[[], object]] | None = None
        self._taken = threading.Lock()
        self._thread: threading.Thread | None = None

    # For other threads

    def begin(self) -> None:
        """Start the thread, unless it runs; what is posted before is done then.

        Raises:
            PymicroError: No thread can be started.
        """
        if self._thread is not None:
            return
        try:
            # Several of these at a time are one too many, which end at once.
            threading.Thread(target=self._run, name="pymicro sync clients", daemon=True).start()
        except RuntimeError as exc:  # there are too many, or Python ends
            raise PymicroError(f"the thread of synchronous clients cannot be started: {exc}") from exc

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call this in the loop, in the caller's context; do not wait for it.

        Raises:
            PymicroError: The process was forked, or is about to end.
        """
        if self.lost:
            raise forked()
        if not self.ending:
            try:
                self.loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # it has ended in this moment
                pass
            else:
                return
        if threading.current_thread().daemon and not self.here:
            Latch().wait()  # for ever
        raise PymicroError("this process is ending, and its synchronous clients are closed")

    def wait(self, latch: Latch, what: str, timeout: float | None = None) -> bool:
        """Wait for what the loop does; False after `timeout` seconds.

        Args:
            latch: The loop sets it.
            what: For messages.
            timeout: Seconds; None for no limit.

        Raises:
            PymicroError: The process was forked; or the wait would hold up what it waits for.
        """
        if latch.is_set:
            return True
        self.check(what)
        return latch.wait(timeout)

    @property
    def here(self) -> bool:
        """Whether this is the loop's thread."""
        return _get_running_loop() is self.loop

    def check(self, what: str) -> None:
        """Call this before a wait for what the loop does.

        Raises:
            PymicroError: The process was forked; or the wait would hold up what it waits for.
        """
        if self.lost:
            raise forked()
        running = _get_running_loop()
        if running is not None:
            self._check_loop(running, what)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        """What the coroutine returns that `make` makes; run in the loop.

        If the wait is interrupted, it is cancelled.

        Raises:
            PymicroError: As `wait` does.
        """
        latch, ended = Latch(), list[asyncio.Task[T]]()

        def end(task: asyncio.Task[T]) -> None:
            ended.append(task)
            if not self.ending:
                latch.set()

        def begin() -> None:
            task = self.start(make())
            begun.append(task)
            task.add_done_callback(end)

        begun: list[asyncio.Task[T]] = []
        self.post(begin)
        try:
            self.wait(latch, what)
        except BaseException:
            with contextlib.suppress(PymicroError):
                self.post(lambda: [task.cancel() for task in begun])
            raise
        (task,) = ended
        return task.result()

    def call_back(self, callback: Callable[[], object], what: str) -> None:
        """Call this in a thread that is neither the loop's nor the caller's: it may block.

        What it raises is logged. It is the loop's thread that calls this.
        """

        def called() -> None:
            try:
                callback()
            # Also SystemExit and the like: those of other calls come after it in this thread.
            except BaseException:
                log.exception("a callback of %s failed", what)

        if self._callbacks is None:
            callbacks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
            thread = threading.Thread(
                target=_call_back, args=(callbacks,), name="pymicro sync callbacks", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:  # there are too many
                log.error("a callback of %s was not called: %s", what, exc)
                return
            self._callbacks = callbacks
        self._callbacks.put(called)

    def stop(self) -> None:
        """End what is open, and the loop; returns in bounded time."""
        if self.ending:
            return
        self.ending = True
        end = time.monotonic() + PATIENCE
        closed = Latch()
        self.loop.call_soon_threadsafe(lambda: self.start(self._close(closed)))
        closed.wait(end - time.monotonic())
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not None:
            self._thread.join(max(0.1, end - time.monotonic()))

    # In the loop

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it as a task of the loop, which keeps it alive."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _close(self, closed: Latch) -> None:
        try:
            await asyncio.gather(*(close() for close in list(self.at_exit)), return_exceptions=True)
            await asyncio.sleep(0)  # who waits for a call is told
        finally:
            closed.set()

    def _run(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        keep_for_sync_clients(self.loop)
        atexit.register(self.stop)
        asyncio.set_event_loop(self.loop)
        while not self.ending:
            try:
                self.loop.run_forever()
            except BaseException:  # KeyboardInterrupt or SystemExit, raised by an interceptor say
                log.exception("something tried to end the event loop of synchronous clients, which goes on")
        keep_for_sync_clients(None)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        # What is cancelled has a moment to end, so that Python does not complain of it.
        self.loop.call_later(0.05, self.loop.stop)
        self.loop.run_forever()
        self.loop.close()

    def _check_loop(self, running: asyncio.AbstractEventLoop, what: str) -> None:
        if running is self.loop:
            raise PymicroError(
                f"{what} was made without `await` in the thread that makes all such calls, as in an "
                "interceptor of a synchronous client: it would wait for itself"
            )
        if current_scope() is not None:
            raise PymicroError(
                f"{what} was made without `await` in a handler that is a coroutine: meanwhile its service "
                "could answer nobody. Call over `service.channel(…)` and await, or make the handler a plain "
                "`def`"
            )


class LoopUser(Protocol):
    """A client, or what belongs to one."""

    def opened(self) -> LoopThread:
        """Where its calls run; it is opened now if it is not."""
        ...

    @property
    def thread(self) -> LoopThread | None:
        """The same; None unless it is open."""
        ...


def _call_back(callbacks: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        callbacks.get()()


# The one of this process, under "it": of several threads that make one, the first keeps its own.
_current: dict[str, LoopThread] = {}


def loop_thread(loop: str) -> LoopThread:
    """The thread of this process, started now if there is none.

    Args:
        loop: The setting `loop`, which counts for the first client.

    Raises:
        PymicroError: There are no threads here.
    """
    found = _current.get("it")
    if found is None:
        _check_threads()
        made = LoopThread(loop)
        found = _current.setdefault("it", made)
        if found is not made:
            made.loop.close()
    found.begin()
    return found


# What can replace Python's threads by functions that take turns in one of them: the module and the function
# that know whether it has, and what to ask.
_REPLACING = (
    ("gevent.monkey", "is_module_patched", "threading"),
    ("eventlet.patcher", "is_monkey_patched", "thread"),
)


def _check_threads() -> None:
    for home, question, threads in _REPLACING:
        module: Any = sys.modules.get(home)
        if module is not None and getattr(module, question)(threads):
            name = home.partition(".")[0]
            raise PymicroError(
                f"{name} has replaced the threads of this program, and a synchronous client needs real ones: "
                "it would wait for ever. Run it with threads, as by gunicorn's `--worker-class gthread`"
            )


def forked() -> PymicroError:
    """What to raise for a client whose loop has stayed in the parent."""
    return PymicroError(
        "this synchronous client was used before the process was forked, and its connections have stayed "
        "with the parent: make the client after the fork, as in gunicorn's hook post_fork or uwsgi's "
        "@postfork, or use it there for the first time"
    )


def _in_child() -> None:
    lost = _current.pop("it", None)
    if lost is not None:
        lost.lost = True
        atexit.unregister(lost.stop)
        keep_for_sync_clients(None)


os.register_at_fork(after_in_child=_in_child)
