"""Where the requests of `pymicro call` come from: an argument, a file, stdin."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pymicro.cli.report import InputError
from pymicro.rpc.schema import Document, Documents

__all__ = ["RequestSource", "open_requests"]

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class RequestSource:
    """A source of JSON documents.

    Attributes:
        name: Its name in messages, such as `requests.json`.
        text: The whole text; None if it is read from stdin as it comes.
    """

    name: str
    text: str | None

    async def documents(self) -> AsyncIterator[Document]:
        """Each document as soon as it is complete.

        Raises:
            InputError: Stdin is no UTF-8 text.
        """
        cutter = Documents()
        if self.text is not None:
            found = cutter.feed(self.text)
        else:
            decoder = codecs.getincrementaldecoder("utf-8")()
            async with contextlib.aclosing(_stdin()) as chunks:
                async for chunk in chunks:
                    try:
                        text = decoder.decode(chunk, final=not chunk)
                    except UnicodeDecodeError as exc:
                        raise InputError(f"{self.name} is no UTF-8 text: {exc.reason}") from exc
                    for document in cutter.feed(text):
                        yield document
            found = []
        for document in (*found, *cutter.finish()):
            yield document


def open_requests(argument: str) -> RequestSource:
    """The source that the argument means: JSON, `@file` or `-`.

    Raises:
        InputError: The file cannot be read.
    """
    if argument == "-":
        return RequestSource("stdin", None)
    if not argument.startswith("@"):
        return RequestSource("the JSON argument", argument)
    path = argument[1:]
    try:
        return RequestSource(path, Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is no UTF-8 text: {exc.reason}") from exc
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc


async def _stdin() -> AsyncGenerator[bytes, None]:
    """The data from stdin, in chunks, then one empty chunk.

    A separate thread reads: asyncio's pipes refuse files and /dev/null, and would
    leave the terminal non-blocking for the next program. It is a daemon, because a
    read cannot be cancelled, and it reads only what was asked for.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(0)

    def read() -> None:
        chunk: bytes | OSError = b"?"
        while chunk and isinstance(chunk, bytes):
            wanted.acquire()
            try:
                chunk = os.read(0, _CHUNK)
            except OSError as exc:
                chunk = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants the data any more
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while True:
        wanted.release()
        chunk = await chunks.get()
        if isinstance(chunk, OSError):
            raise InputError(f"cannot read stdin: {chunk.strerror}") from chunk
        yield chunk
        if not chunk:
            return
