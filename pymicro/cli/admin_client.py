"""Reading the admin ports of other processes, which may be anybody's."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from pymicro.base.durations import format_duration
from pymicro.base.errors import PymicroError
from pymicro.base.printable import shortened
from pymicro.nodes.address import join_address

__all__ = ["AdminError", "read_page_and_clock", "read_pages"]

# More than a page about ten thousand nodes has.
MOST_BYTES = 16 << 20
MOST_HEAD = 1 << 14
_LONGEST_DATE = 40


class AdminError(PymicroError):
    """A process did not say how it fares; the text says why, in a few words."""


async def read_page_and_clock(host: str, port: int, path: str, timeout: float) -> tuple[Any, float | None]:
    """The JSON of a page, and what the clock there said, in seconds since 1970; None if it told nothing.

    Arguments and errors are those of `read_pages`.
    """
    ((page, date),) = await _read(host, port, [path], timeout)
    return page, _seconds(date)


async def read_pages(host: str, port: int, paths: Sequence[str], timeout: float) -> list[Any]:
    """The JSON of several pages, over one connection.

    Args:
        host: Address or name.
        port: The admin port.
        paths: The pages.
        timeout: Seconds for all of them.

    Raises:
        AdminError: They could not be had.
    """
    return [page for page, _ in await _read(host, port, paths, timeout)]


async def _read(host: str, port: int, paths: Sequence[str], timeout: float) -> list[tuple[Any, str]]:
    """The pages, each with its date."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port, limit=MOST_HEAD)
            try:
                return [await _page(reader, writer, join_address(host, port), path) for path in paths]
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise AdminError(f"no answer in {format_duration(timeout)}") from None
    except asyncio.IncompleteReadError:
        raise AdminError("it ended the connection before its answer") from None
    except asyncio.LimitOverrunError:
        raise AdminError("what answers there is no admin port") from None
    except OSError as exc:
        raise AdminError(f"unreachable: {os.strerror(exc.errno) if exc.errno else exc}") from None


def _seconds(date: str) -> float | None:
    """The header Date (RFC 9110, 6.6.1) in seconds since 1970; None if it is none."""
    if len(date) > _LONGEST_DATE:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


async def _page(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str, path: str
) -> tuple[Any, str]:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {where}\r\nAccept: application/json\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    words = first.split(" ", 2)
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    if not words[0].startswith("HTTP/1.") or len(words) < 2 or not (length.isascii() and length.isdigit()):
        raise AdminError("what answers there is no admin port")
    if len(length) > 12 or int(length) > MOST_BYTES:
        raise AdminError(f"its page {path} is too long ({length[:12]} bytes)")
    body = await reader.readexactly(int(length))
    if words[1] != "200":
        said = body.decode(errors="replace").strip().partition("\n")[0]
        raise AdminError(f"{path}: {words[1][:3]} {shortened(said)}".rstrip())
    try:
        return json.loads(body), headers.get("date", "")
    except (ValueError, RecursionError):
        raise AdminError(f"its page {path} is no JSON") from None
