"""The few requests a kubelet makes of the API server."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

log = logging.getLogger("kubelet.api")

Object = dict[str, Any]

STRATEGIC_MERGE = "application/strategic-merge-patch+json"

# A pause after each failure: the server is this machine's and comes back quickly.
RETRY = 0.5


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """The API server of a kubeconfig written by the tests, which is JSON with a token."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        self.server: str = cluster["server"]
        self._ca_file: str = cluster["certificate-authority"]
        self._token: str = document["users"][0]["user"]["token"]
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self._ca_file), limit=0),
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=30.0),
            # The longest line of a watch: an object with all its managed fields.
            read_bufsize=1 << 21,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json"
    ) -> Any:
        """The parsed answer.

        Raises:
            Refused: The server answered 400 or more.
            aiohttp.ClientError, TimeoutError: It did not answer.
        """
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self.server + path, data=data, headers={"Content-Type": kind}
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise Refused(response.status, text)
            return json.loads(text)

    async def follow(self, path: str) -> AsyncIterator[dict[str, Object]]:
        """All objects by uid, now and after each change, for ever.

        The mapping is ours, do not keep it; an object in it never changes, but is replaced.
        """
        while True:
            try:
                answer = await self.request("GET", path)
                objects = {item["metadata"]["uid"]: item for item in answer["items"]}
                yield objects
                async for event in self._watch(path, answer["metadata"]["resourceVersion"]):
                    changed = event["object"]
                    if event["type"] == "DELETED":
                        objects.pop(changed["metadata"]["uid"], None)
                    else:
                        objects[changed["metadata"]["uid"]] = changed
                    yield objects
            except (aiohttp.ClientError, TimeoutError, Refused, ValueError) as exc:
                log.info("watch of %s: %r; again", path, exc)
                await asyncio.sleep(RETRY)

    async def _watch(self, path: str, version: str) -> AsyncIterator[Object]:
        async with self._session.get(
            self.server + path,
            params={"watch": "1", "resourceVersion": version},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        ) as response:
            if response.status >= 400:
                raise Refused(response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(int(event["object"].get("code", 500)), json.dumps(event["object"]))
                yield event


async def insist(request: Callable[[], Awaitable[object]]) -> None:
    """Ask until the API server has done it, or says that the object is gone, or another, by now."""
    while True:
        try:
            await request()
        except Refused as exc:
            if exc.status in (404, 409):
                return
            log.warning("%s; again", exc)
        except (aiohttp.ClientError, TimeoutError) as exc:
            log.info("%r; again", exc)
        else:
            return
        await asyncio.sleep(RETRY)
