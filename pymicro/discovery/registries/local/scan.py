"""Reads the folder of registry `local` and finds the live nodes, without trusting the files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
import time
from dataclasses import dataclass
from operator import itemgetter

from pymicro.base.errors import RegistryError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.turns import Turns
from pymicro.discovery.registries.local.folder import LARGEST, Folder, lock
from pymicro.discovery.registries.local.json import load_node
from pymicro.nodes.node import Node

__all__ = ["MENDED", "Scanner"]

log = logger("pymicro.registry.local")

_NODE = re.compile(r"[0-9a-f]{32}\.node")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.new")

# An owner takes well under a second between making a file and naming it.
_STALE = 60.0

# Seconds within which an owner finds out that its file is gone, and makes it again.
MENDED = 1.0
# What was seen longer ago says nothing of the nodes there are.
_FRESH = 30.0

# Probing a file takes some 15 us: a thousand of them must not hold up the loop.
_SLICE = 0.002

# These are faults of this process or machine, and say nothing about the file.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Not blocking: opening a named pipe that somebody put there would wait for its writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class _File:
    """The file under one name.

    Attributes:
        signature: Tells whether the file must be read again.
        node: None if the file is no node.
        problem: Why it is none; the log has it already.
    """

    signature: tuple[int, int, int] | None = None
    node: Node | None = None
    problem: str = ""

    @property
    def written(self) -> int:
        """When the file was last written, in nanoseconds."""
        return self.signature[1] if self.signature else 0


class Scanner:
    """Finds the live nodes in a folder, and sweeps the dead ones out of it.

    A file that has not changed since the last scan is only probed. A file that is no node
    is skipped and logged once. When somebody removed the folder and it is there again, the
    nodes that were in it stay for a while: their owners register them again within `MENDED`.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._lock = asyncio.Lock()
        self._quota = LogQuota(log, f"registry local: more files in {folder} are skipped")
        # The folder of the last scan, open: as long as it is, no other folder gets its inode.
        self._last: int | None = None
        self._last_at = 0.0
        self._lost: list[Node] = []
        self._lost_until = 0.0

    def __del__(self) -> None:
        if self._last is not None:
            os.close(self._last)

    async def scan(self) -> list[Node]:
        """All live nodes, the last written last. Lets the loop run in between.

        Raises:
            RegistryError: The folder cannot be read, or is no longer safe to use.
        """
        async with self._lock:
            folder = self._folder.open()
            try:
                now = time.monotonic()
                if self._is_another(folder) and now - self._last_at < _FRESH:
                    log.info("%s is another folder now; its nodes are about to come back", self._folder)
                    self._lost, self._lost_until = self._live(), now + 2 * MENDED
                self._files = await self._look_at_all(folder)
            except BaseException:
                os.close(folder)
                raise
            if self._last is not None:
                os.close(self._last)
            self._last, self._last_at = folder, now
            live = self._live()
            if time.monotonic() >= self._lost_until:
                return live
            back = {(node.service, node.id) for node in live}
            return [node for node in self._lost if (node.service, node.id) not in back] + live

    def known(self) -> set[str]:
        """The services whose nodes the last scan found."""
        return {file.node.service for file in self._files.values() if file.node is not None}

    def _is_another(self, folder: int) -> bool:
        return self._last is not None and not os.path.samestat(os.fstat(self._last), os.fstat(folder))

    def _live(self) -> list[Node]:
        live = [(file.written, name, file.node) for name, file in self._files.items() if file.node]
        return [node for _, _, node in sorted(live, key=itemgetter(0, 1))]

    async def _look_at_all(self, folder: int) -> dict[str, _File]:
        try:
            names = os.listdir(folder)
        except OSError as exc:
            raise RegistryError(f"registry local: cannot read {self._folder}: {exc.strerror}") from exc
        files: dict[str, _File] = {}
        turns = Turns(_SLICE)
        for name in names:
            found = self._look(folder, name, self._files.get(name))
            if found is not None:
                files[name] = found
            await turns.give()
        return files

    def _look(self, folder: int, name: str, known: _File | None) -> _File | None:
        """The file under `name`; None if it is gone, dead or not finished yet."""
        if not _NODE.fullmatch(name):
            if _TEMPORARY.fullmatch(name):
                self._sweep(folder, name)
                return None
            return self._skip(name, known, None, "its name is not one of a node's file")
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                raise RegistryError(f"registry local: cannot read {self._folder}: {exc.strerror}") from exc
            why = "it is a symbolic link" if exc.errno == errno.ELOOP else f"{exc.strerror}"
            return self._skip(name, known, None, why)
        try:
            found = os.fstat(descriptor)
            signature = (found.st_ino, found.st_mtime_ns, found.st_size)
            if not stat.S_ISREG(found.st_mode):
                return self._skip(name, known, signature, "it is no regular file")
            if found.st_uid != os.geteuid():
                return self._skip(name, known, signature, f"it belongs to uid {found.st_uid}")
            if lock(descriptor, exclusive=False, path=self._folder.path):
                # Nobody holds the lock: the owner is dead. The name is never used again, so
                # this cannot hit a living node.
                self._unlink(folder, name)
                log.debug("removed %s from %s: its owner is gone", name, self._folder)
                return None
            if known is not None and known.signature == signature:
                return known
            return self._read(name, known, signature, descriptor)
        finally:
            os.close(descriptor)

    def _read(
        self, name: str, known: _File | None, signature: tuple[int, int, int], descriptor: int
    ) -> _File:
        if signature[2] > LARGEST:
            return self._skip(name, known, signature, f"it has more than {LARGEST} bytes")
        try:
            with open(descriptor, "rb", closefd=False) as file:
                return _File(signature, load_node(file.read(LARGEST)))
        except OSError as exc:
            return self._skip(name, known, signature, f"{exc.strerror}")
        except ValueError as exc:
            return self._skip(name, known, signature, str(exc))

    def _skip(
        self, name: str, known: _File | None, signature: tuple[int, int, int] | None, problem: str
    ) -> _File:
        if known is None or known.problem != problem:
            text = "skipping %s in %s: %s"
            self._quota.say(logging.WARNING, text, excerpt(name), str(self._folder), problem)
        return _File(signature, None, problem)

    def _unlink(self, folder: int, name: str) -> None:
        # Other processes may be faster, and a folder may be read-only: either way the node is not listed.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)

    def _sweep(self, folder: int, name: str) -> None:
        """Remove a temporary file whose owner died between making and naming it.

        An unlocked file is not enough here: a new file is unlocked too, between opening and
        locking it.
        """
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except OSError:
            return
        try:
            found = os.fstat(descriptor)
            old = time.time() - found.st_mtime > _STALE
            if (
                old
                and stat.S_ISREG(found.st_mode)
                and lock(descriptor, exclusive=False, path=self._folder.path)
            ):
                self._unlink(folder, name)
        finally:
            os.close(descriptor)
