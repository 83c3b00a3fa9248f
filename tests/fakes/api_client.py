"""An API server as `fakes.api_contract` asks it: HTTP and JSON, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl as tls
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.fakes.pods import pod

__all__ = ["PATIENCE", "STRATEGIC", "Api", "Events"]

STRATEGIC = "application/strategic-merge-patch+json"
PATIENCE = 10.0


class Events:
    """The lines of one watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self) -> bytes:
        """The next line; b"" at the end."""
        async with asyncio.timeout(PATIENCE):
            return await self.response.content.readline()

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event's type and object."""
        text = await self.line()
        assert text, "the watch ended"
        event = json.loads(text)
        return event["type"], event["object"]

    async def change(self) -> tuple[str, str]:
        """The next event's type and its object's name; bookmarks are passed over."""
        while True:
            kind, obj = await self.next()
            if kind != "BOOKMARK":
                return kind, obj["metadata"]["name"]


@dataclass
class Api:
    """An API server, who asks it, and an empty namespace in it.

    Attributes:
        url: `https://127.0.0.1:6443`.
        headers: Such as `{"Authorization": "Bearer …"}`.
        ssl: For https: what trusts the server.
        namespace: Belongs to one test; pods can be created in it (a real server wants
            its service account `default` to be there).
    """

    url: str
    headers: Mapping[str, str]
    ssl: tls.SSLContext | bool = True
    namespace: str = "default"
    _session: aiohttp.ClientSession = field(init=False, repr=False)

    async def __aenter__(self) -> Api:
        connector = aiohttp.TCPConnector(ssl=self.ssl)
        # A line of a watch may have megabytes.
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self.headers, read_bufsize=4 << 20, trust_env=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def path(self, name: str = "", plural: str = "pods") -> str:
        root = "/apis/discovery.k8s.io/v1" if plural == "endpointslices" else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one answer."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": content_type, **(headers or {})} if data is not None else dict(headers or {})
        async with (
            asyncio.timeout(PATIENCE),
            self._session.request(
                method, self.url + path, params=query or {}, data=data, headers=sent
            ) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    async def good(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON of an answer that is no refusal."""
        status, answer = await self.ask(method, path, body, content_type=content_type, query=query)
        assert status < 300, answer
        return answer

    async def list(self, plural: str = "pods", **query: str) -> tuple[str, list[str], str]:
        """Version, names, and the token for the next page."""
        answer = await self.good("GET", self.path(plural=plural), query=query)
        meta = answer["metadata"]
        names = [item["metadata"]["name"] for item in answer["items"]]
        return meta["resourceVersion"], names, meta.get("continue", "")

    @contextlib.asynccontextmanager
    async def watch(self, plural: str = "pods", **query: str) -> AsyncIterator[Events]:
        params = {"watch": "1", "timeoutSeconds": "60", **query}
        url = self.url + self.path(plural=plural)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE)
        async with self._session.get(url, params=params, timeout=timeout) as response:
            assert response.status == 200, await response.text()
            try:
                yield Events(response)
            finally:
                if response.connection is not None and response.connection.transport is not None:
                    # Not at its end. Over TLS it would else be closed in the server's own time.
                    response.connection.transport.abort()

    async def make(self, name: str, **labels: str) -> dict[str, Any]:
        """A pod, on a node that nobody serves."""
        body = pod(name, namespace=self.namespace, labels=labels or {"app": "greeter"})
        return await self.good("POST", self.path(), body)

    async def mark(self, name: str, **metadata: Mapping[str, str | None]) -> dict[str, Any]:
        """Patch a pod's labels or annotations; None removes."""
        return await self.good("PATCH", self.path(name), {"metadata": metadata}, content_type=STRATEGIC)

    async def remove(self, name: str) -> None:
        await self.good("DELETE", self.path(name), query={"gracePeriodSeconds": "0"})
