"""One file that says who may do what: read at the start, and again when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import sha256
from types import TracebackType
from typing import Generic, Self, TypeVar

from pymicro.base.errors import ConfigError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.identity.files import BadCertificate, read_file
from pymicro.identity.rereading import Rereading

__all__ = ["FollowedFile"]

log = logger("pymicro.identity")

T = TypeVar("T")


class FollowedFile(Generic[T]):
    """Holds the newest good contents. A file of no use is complained about, and those before stay.

    Args:
        path: Where it is.
        what: What is in it, for the log, in the plural: `rules`.
        content: What the file should hold, for messages.
        setting: Who has named it, for messages.
        parse: Makes something of the bytes; is also given what messages begin with. Raises ConfigError.
        take: Called in the event loop with what was made, at once and whenever there is something else.

    Attributes:
        refused: How often the file was found to be of no use.
    """

    def __init__(
        self,
        path: str,
        *,
        what: str,
        content: str,
        setting: str,
        parse: Callable[[bytes, str], T],
        take: Callable[[T], None],
    ) -> None:
        self._path = path
        self._what = what
        self._content = content
        self._setting = setting
        self._parse = parse
        self._tell = take
        self._digest = b""
        self._problem = ""
        self._rereading: Rereading[tuple[bytes, T]] | None = None
        self._quota = LogQuota(log, f"more files with {what} are refused")
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Read it, and look at it from now on.

        Raises:
            ConfigError: It cannot be used; the text says why.
        """
        found = await asyncio.to_thread(self._read)
        assert found is not None
        self._digest, contents = found
        self._tell(contents)
        self._rereading = Rereading(self._read, self._take, self._say, name=f"pymicro {self._what}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rereading is not None:
            self._rereading.close()

    def _read(self) -> tuple[bytes, T] | None:
        try:
            data = read_file(self._path, self._content)
        except BadCertificate as exc:
            raise ConfigError(f"{self._setting}: {exc}") from exc
        digest = sha256(data).digest()
        return (
            None if digest == self._digest else (digest, self._parse(data, f"{self._setting}: {self._path}"))
        )

    def _take(self, found: tuple[bytes, T]) -> None:
        if found[0] != self._digest:
            self._digest, contents = found
            self._problem = ""
            log.info("the %s in %s have changed", self._what, self._path)
            self._tell(contents)

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            self.refused += 1
            self._quota.say(
                logging.ERROR, "%s are not taken, and those before go on: %s", self._what, problem
            )
        self._problem = problem
