"""A token, or an API key, in a file that somebody else writes anew, as the kubelet does."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.identity.files import BadCertificate, read_file

__all__ = ["BadToken", "TokenFile"]

log = logger("pymicro.identity")

# Seconds for which what was read counts as new.
FRESH = 1.0
# Characters: more would not fit into a call's metadata.
MOST = 7000
# What is sent as one word of metadata.
_WORD = re.compile(r"[\x21-\x7e]+", re.ASCII)


class BadToken(Exception):
    """There is no token that could be sent; the text is one sentence for people, without the token."""


class TokenFile:
    """Holds the newest good contents of a file. It is read when somebody asks, at most once a second.

    So nothing has to be opened or closed, and nobody asks in vain after a pause: a token that was read an
    hour ago has expired.

    Args:
        path: Which file.
        kind: What is in it, for messages: `token`, or `API key`.
        clock: Seconds.
    """

    def __init__(self, path: str, kind: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._kind = kind
        self._clock = clock
        self._text = ""
        self._read_at = float("-inf")
        self._reading: asyncio.Future[str | BadToken] | None = None
        self._problem = ""
        self._quota = LogQuota(log, f"more files with a {kind} are refused")

    def __repr__(self) -> str:
        return f"<{self._kind} in {self.path}>"

    async def get(self) -> str:
        """The token as of now.

        Raises:
            BadToken: There is none, and was none before.
        """
        if self._clock() - self._read_at < FRESH:
            return self._text
        loop, reading = asyncio.get_running_loop(), self._reading
        if reading is None or reading.get_loop() is not loop:
            reading = self._reading = loop.run_in_executor(None, self._read)
            reading.add_done_callback(self._have_read)
        found = await asyncio.shield(reading)
        if isinstance(found, str):
            return found
        if not self._text:
            raise BadToken(str(found))
        return self._text

    def _have_read(self, reading: asyncio.Future[str | BadToken]) -> None:
        if self._reading is reading:
            self._reading = None
        if reading.cancelled():
            return
        found = reading.result()
        if isinstance(found, str):
            self._text, self._problem = found, ""
            self._read_at = self._clock()
        elif self._text:
            # The one before goes on, until it expires.
            self._read_at = self._clock()
            if str(found) != self._problem:
                self._problem = str(found)
                self._quota.say(logging.ERROR, "the %s before goes on: %s", self._kind, self._problem)

    def _read(self) -> str | BadToken:
        """What is in the file; in a thread."""
        try:
            data = read_file(self.path, f"a {self._kind}")
        except BadCertificate as exc:
            return BadToken(str(exc))
        except Exception as exc:  # no memory, or a bug
            return BadToken(f"{self.path} cannot be read: {type(exc).__name__}")
        text = data.decode("latin-1").strip(" \t\r\n")
        if len(text) > MOST:
            return BadToken(
                f"{self.path} has {len(text)} bytes: a {self._kind} of more than {MOST} fits into no call"
            )
        if not _WORD.fullmatch(text):
            return BadToken(
                f"{self.path} holds no {self._kind}: that is one word of letters, digits and signs of ASCII"
            )
        return text
