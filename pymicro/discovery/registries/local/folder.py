"""The folder of registry `local`, and this process's own files in it.

A node is a file that its owner keeps locked (flock) for as long as it lives: when the
process ends, in whatever way, the kernel drops the lock. The name is random and never
used again, so an unlocked file is dead for good and anybody may unlink it. A file gets
its name only after it is locked and written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
import tempfile
import threading
from pathlib import Path

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.local.json import dump_node
from pymicro.nodes.node import Node

__all__ = ["LARGEST", "Folder", "NodeFile", "lock"]

# Enough for a node of a service with some hundred methods; readers read no more.
LARGEST = 1 << 20

# A sweeper's probe can take the lock of a new file from its owner; but not ten times.
_TRIES = 10


def lock(descriptor: int, *, exclusive: bool, path: Path) -> bool:
    """Lock an open file, at once or not at all; returns whether that worked.

    Raises:
        RegistryError: The file system cannot lock.
    """
    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise RegistryError(
            f"registry local needs file locks, which {path} does not offer ({exc.strerror}): choose a folder "
            "on a local disk with --registry-address, or use --registry mdns"
        ) from exc
    return True


def _default() -> Path:
    """`pymicro-<uid>` in the temporary folder, or what replaces it.

    XDG_RUNTIME_DIR comes second, though nobody else can take a name there: a user's services and
    cron jobs do not have it, and must meet the programs of the user's sessions.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    second = Path(runtime, "pymicro") if runtime and os.access(runtime, os.W_OK) else None
    try:
        first = Path(tempfile.gettempdir(), f"pymicro-{os.geteuid()}")
    except FileNotFoundError:
        if second is not None:
            return second
        raise ConfigError(
            "registry local has no folder to write in: there is no writable temporary folder (a read-only "
            "root?); set registry_address to a folder, or choose another registry"
        ) from None
    try:
        foreign = os.lstat(first).st_uid != os.geteuid()
    except OSError:
        foreign = False
    return second if foreign and second is not None else first


class Folder:
    """The folder that holds all nodes of one user's processes.

    Args:
        path: Its path; one that all of this user's processes find if None.

    Raises:
        ConfigError: None is given, and there is no folder to write in.
    """

    def __init__(self, path: str | None = None) -> None:
        # Made absolute now: a service may change its working directory later.
        self.path = Path(os.path.abspath(os.path.expanduser(path))) if path else _default()

    def __str__(self) -> str:
        return str(self.path)

    def prepare(self) -> None:
        """Make the folder if it is missing, and check that it can be used.

        Raises:
            RegistryError: It cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # something else of that name: open() says what
        except OSError as exc:
            raise RegistryError(f"registry local: cannot make {self.path}: {exc.strerror}") from exc
        descriptor = self.open()
        try:
            lock(descriptor, exclusive=False, path=self.path)
        finally:
            os.close(descriptor)

    def open(self) -> int:
        """A descriptor of the folder, checked; the caller closes it.

        In a world-writable temporary folder anybody can first put a link or a folder of
        theirs under our name. Then our clients would call their nodes.

        Raises:
            RegistryError: The folder is not real, not ours or open to others; the text says
                which, and what to do.
        """
        try:
            self._check(os.lstat(self.path))
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            raise RegistryError(f"registry local: cannot read {self.path}: {exc.strerror}") from exc
        try:
            # Check again what we opened: the path may lead elsewhere by now.
            self._check(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, found: os.stat_result) -> None:
        other = "choose another folder with --registry-address"
        if stat.S_ISLNK(found.st_mode):
            raise RegistryError(f"registry local: {self.path} is a symbolic link: remove it or {other}")
        if not stat.S_ISDIR(found.st_mode):
            raise RegistryError(f"registry local: {self.path} is no folder: remove it or {other}")
        if found.st_uid != os.geteuid():
            raise RegistryError(
                f"registry local: {self.path} belongs to uid {found.st_uid} and not to uid {os.geteuid()}, "
                f"who runs this: {other}"
            )
        if found.st_mode & 0o077:
            raise RegistryError(
                f"registry local: {self.path} is open to other users (mode {found.st_mode & 0o777:o}): "
                f"chmod 700 {shlex.quote(str(self.path))}, or {other}"
            )


# A forked child has the same open files. As long as it has them, a killed parent's
# locks live on. So no fork happens while a file is being made, and the child first
# closes them all. (An RLock, because a signal handler that forks may interrupt the
# very thread that holds the lock.)
_forking = threading.RLock()
_held: set[NodeFile] = set()


def _after_fork_in_child() -> None:
    _forking.release()
    for record in _held:
        record.abandon()
    _held.clear()


os.register_at_fork(
    before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_after_fork_in_child
)


class NodeFile:
    """One node's file, held locked by this process until `remove`.

    Build it with `NodeFile.create`.
    """

    def __init__(self, node: Node, path: Path, descriptor: int) -> None:
        self.node = node
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def create(cls, folder: Folder, node: Node) -> NodeFile:
        """Lock, write and name a file for `node`.

        Raises:
            OSError: The folder cannot be written.
            RegistryError: The folder cannot lock, or the node is too large.
            ValueError: The node's texts are no valid unicode.
        """
        data = dump_node(node)
        if len(data) > LARGEST:
            raise RegistryError(
                f"registry local: the record of {node.service} has {len(data)} bytes and may have {LARGEST}: "
                "give it less metadata"
            )
        for _ in range(_TRIES):
            stem = secrets.token_hex(16)
            temporary, path = folder.path / f".{stem}.new", folder.path / f"{stem}.node"
            with _forking:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                record = cls(node, temporary, os.open(temporary, flags, 0o600))
                _held.add(record)
            if record._fill(data, path):
                return record
        raise RegistryError(f"registry local: the new files in {folder} were taken away {_TRIES} times")

    def _fill(self, data: bytes, path: Path) -> bool:
        """Lock, write, rename; False if a sweeper was faster and removed the file as stale."""
        done = False
        try:
            assert self._descriptor is not None
            if not lock(self._descriptor, exclusive=True, path=path.parent):
                return False
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            try:
                os.rename(self._path, path)
            except FileNotFoundError:
                return False
            self._path = path
            done = True
        finally:
            if not done:
                self.remove()
        return True

    def intact(self) -> bool:
        """Whether we hold the file, and it is still there under its name."""
        if self._descriptor is None:
            return False
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def renew(self) -> None:
        """Make the file look used: programs that clean temporary folders go by its times."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def remove(self) -> None:
        """Unlink the file, then let go of the lock; in a forked child do nothing."""
        if self._descriptor is None:
            return
        try:
            if self.intact():
                os.unlink(self._path)
        except OSError as exc:
            # Once unlocked it is as good as gone, whoever may unlink it.
            if exc.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        finally:
            _held.discard(self)
            self.abandon()

    def abandon(self) -> None:
        """Close the file and leave it to its owner: we are a fork of the owner."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
