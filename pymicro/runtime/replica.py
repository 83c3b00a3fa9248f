"""One of the processes that are to run: started, started again, and replaced by a newer one."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Callable
from functools import partial

from pymicro.base.durations import format_duration
from pymicro.base.errors import ConfigError, StartError
from pymicro.base.tasks import Tasks
from pymicro.nodes.address import split_address
from pymicro.runtime.child import Apart, Child
from pymicro.runtime.program import Program, Restarts
from pymicro.serving.listen import probe

__all__ = ["Replica"]

# Seconds between two tries of a port that the previous process is about to leave.
_PORT_INTERVAL = 0.02
# What the system says of a file that is no program, and will say again.
_NO_PROGRAM = (
    errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELOOP, errno.E2BIG,
)  # fmt: skip
# With which `pymicro run` says that its input is bad, which another try does not mend.
_BAD_INPUT = 2


class Replica:
    """Keeps one process running; while one takes over from another, there are two.

    Args:
        program: What to run.
        label: What it is called; empty for the only one.
        restarts: When it is started again after a crash; None for only after a change of its files.
        reloads: Whether changes of files are looked for.
        apart: For processes that do not share the terminal.
        tasks: Owner of what follows the processes.
        post: Handles an event: one after the other, in the order in which they come.
        say: Tells the person at the terminal.

    Attributes:
        label: What it is called.
        due: Whether a process must be started; `start` does it.
        failed: Whether it did not end cleanly, or has been given up.
    """

    def __init__(
        self,
        program: Program,
        label: str,
        *,
        restarts: Restarts | None,
        reloads: bool,
        apart: Apart | None,
        tasks: Tasks,
        post: Callable[[Callable[[], None]], None],
        say: Callable[[str], None],
    ) -> None:
        self.program = program
        self.label = label
        self.due = True
        self.failed = False
        self._restarts = restarts
        self._backoff = restarts.backoff() if restarts is not None else None
        self._reloads = reloads
        self._apart = apart
        self._tasks = tasks
        self._post = post
        self._say = say
        self._serving: Child | None = None
        self._coming: Child | None = None
        self._leaving: set[Child] = set()
        self._last: set[Child] = set()  # children alive at the stop: how they end decides `failed`
        self._again: asyncio.TimerHandle | None = None

    def say(self, text: str) -> None:
        """Tell the person at the terminal something about this one."""
        self._say(f"{self.label}: {text}" if self.label else text)

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return bool(self._serving or self._coming or self._leaving)

    @property
    def over(self) -> bool:
        """Whether nothing runs, and nothing will but for a change of files."""
        return not (self.alive or self.due or self._again)

    @property
    def can_start(self) -> bool:
        """Whether a process is to be started now."""
        return self.due and not (self.program.stop_first and self._leaving)

    async def start(self) -> None:
        """Start the process that is due."""
        self.due = False
        self._forget_pause()
        try:
            self._coming = await Child.start(self.program, self.label, self._apart, self._tasks, self)
        except OSError as exc:
            how = f"cannot be started: {exc.strerror or exc}"
            if self._backoff is None or exc.errno in _NO_PROGRAM:
                self.say(how)
                self.failed = True
            else:  # too many processes or files, for now
                self._pause(how)

    def changed(self) -> None:
        """Replace the process, since its files have changed."""
        self.due = True
        self._forget_pause()
        if self._backoff is not None:
            self._backoff.reset()
        # The coming process may have read the files before they changed.
        self._dismiss(self._coming)
        if self.program.stop_first:
            self._dismiss(self._serving)

    def stop(self) -> None:
        """Stop it for good."""
        # One that waits for its next try has crashed.
        self.failed = self.failed or self._again is not None
        self.due = False
        self._forget_pause()
        self._last = {child for child in (self._coming, self._serving) if child is not None}
        for child in self._last:
            self._dismiss(child)

    def hurry(self) -> None:
        """Tell once more what has been told to stop."""
        for child in self._leaving:
            child.stop()

    # What a child tells: in the order of all events

    def checked(self, child: Child) -> None:
        """Let the child start: at once, or when the previous process has left."""
        self._post(partial(self._checked, child))

    def _checked(self, child: Child) -> None:
        if child is not self._coming:
            return
        if child.address or child.alone:
            self._dismiss(self._serving)
            self._tasks.start(self._give_way(child), "a process that waits for its turn")
        else:
            child.go()

    def started(self, child: Child) -> None:
        """Let the previous process leave."""
        self._post(partial(self._started, child))

    def _started(self, child: Child) -> None:
        if child is self._coming:
            self._dismiss(self._serving)
            self._serving, self._coming = child, None

    def ended(self, child: Child) -> None:
        """Start another one, if nobody has told the child to stop."""
        self._post(partial(self._ended, child))

    def _ended(self, child: Child) -> None:
        if child in self._leaving:
            self._leaving.discard(child)
            # While it imports, a child handles no signals. After a second signal, that one is our exit code.
            if child in self._last and child.code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
                self.failed = True
                if self.label:
                    self.say(f"{_ending(child)} as it stopped")
            return
        if child is self._serving:
            self._serving = None
            if not self._coming and not self.due:
                self._lost(child)
        elif child is self._coming:
            self._coming = None
            if self._serving is None:
                self._lost(child)
                return
            self.say(f"not reloaded ({_ending(child)}): the process before serves on; waiting for a change")
            if child.passed:
                remedy = "stop_first = true" if self.label else "--reload-stop-first"
                self._say(f"if two of this program cannot run side by side: {remedy}")

    # Actions

    def _lost(self, child: Child) -> None:
        """Nothing runs any more: decide what comes next."""
        how = _ending(child)
        if self._restarts is None or self._backoff is None:
            self.say(f"not serving ({how}): waiting for a change")
        elif child.code == 0:
            self.say("has ended")
        elif self.program.speaks and self._reloads and (child.code == _BAD_INPUT or not child.passed):
            self.say(f"not serving ({how}): waiting for a change")
        elif self.program.speaks and child.code == _BAD_INPUT:
            self.say(f"not serving ({how}, which is bad input): not tried again")
            self.failed = True
        else:
            now = asyncio.get_running_loop().time()
            if child.began is not None and now - child.began >= self._restarts.well:
                self._backoff.reset()
            self._pause(how)

    def _pause(self, how: str) -> None:
        """Let the next try come after a pause."""
        assert self._backoff is not None
        pause = self._backoff.next()
        self.say(f"{how}; next try in {format_duration(pause)}")
        self._again = asyncio.get_running_loop().call_later(pause, self._post, self._try_again)

    def _try_again(self) -> None:
        if self._again is not None:
            self._again = None
            self.due = True

    def _forget_pause(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _dismiss(self, child: Child | None) -> None:
        if child is None:
            return
        self._leaving.add(child)
        if child is self._coming:
            self._coming = None
        if child is self._serving:
            self._serving = None
        child.stop()

    async def _give_way(self, child: Child) -> None:
        """Wait until previous processes have ended or freed the port: their last calls may take long."""
        while self._leaving:
            if child.address and await _is_free(child.address):
                break
            await asyncio.sleep(_PORT_INTERVAL)
        child.go()


async def _is_free(address: str) -> bool:
    host, port = split_address(address)
    try:
        await probe(host or "::", port)
    except StartError:
        return False
    except ConfigError:
        pass  # the process will report it
    return True


def _ending(child: Child) -> str:
    assert child.code is not None
    if child.code < 0:
        try:
            return f"killed by {signal.Signals(-child.code).name}"
        except ValueError:
            return f"killed by signal {-child.code}"
    return f"exit code {child.code}"
