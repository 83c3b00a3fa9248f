"""A Kubernetes API server for tests: real TCP and HTTP, pods and endpoint slices, faults on demand.

What it does by itself is what a real server does, as far as reflectors and registries
rely on it: `fakes.api_contract` runs on both. What a real server will not do on demand
are the methods of `fakes.kube_faults.Faults`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import itertools
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

from tests.fakes import kube_writes
from tests.fakes.kube_faults import Faults
from tests.fakes.kube_merge import merge
from tests.fakes.kube_request import Request, Target, parse_path, read_body, verb_of
from tests.fakes.kube_selectors import selector
from tests.fakes.kube_status import Refused, status_object
from tests.fakes.kube_store import Scope, Store, Stored, key_of, now
from tests.fakes.kube_watch import Watch, reset

__all__ = ["FakeKubeApi", "Request", "StreamingList"]

# Real servers compress lists past this size (staging/src/k8s.io/apiserver, writers.go).
GZIP_FROM = 128 * 1024

StreamingList = Literal["yes", "refused", "ignored", "no progress", "silent"]


@dataclass
class _Pages:
    """A list handed out in part; the rest is of the same moment."""

    version: int
    items: list[Stored] = field(default_factory=list)


class FakeKubeApi(Faults):
    """The server. `async with` it; `url` says where it is.

    Args:
        streaming_list: What it makes of `sendInitialEvents`: `yes` as a 1.32 or later
            does; `refused` with 422 (gate off); `ignored` (a server that does not know
            it sends no last bookmark); `no progress`, an ERROR event at once (etcd
            without progress requests); `silent`, nothing ever.
        tokens: Bearer token → user name; None lets everybody in as `anonymous`.
        host: Where to listen; `::1` for IPv6.

    Attributes:
        store: The objects, versions and history.
        requests: Everything asked, in order.
        watches: The watches open now.
        tokens: May be changed at any time.
    """

    def __init__(
        self,
        *,
        streaming_list: StreamingList = "yes",
        tokens: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__()
        self.streaming_list: StreamingList = streaming_list
        self.tokens = tokens
        self.store = Store()
        self.requests: list[Request] = []
        self.watches: list[Watch] = []
        self._host = host
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._pages: dict[str, _Pages] = {}
        self._tokens_made = itertools.count(1)

    # Life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=3600),
            shutdown_timeout=0.05,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await site.start()
        (sock,) = site._server.sockets  # type: ignore[union-attr]
        self._port = sock.getsockname()[1]

    async def stop(self) -> None:
        """Die like a killed process: connections are reset, new ones refused. Objects stay (etcd)."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for transport in list(self._transports):
            reset(transport)
        await runner.cleanup()
        self._noticed()

    # Objects, from the test's side

    def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Add an object, status and all; returns it with uid and version."""
        return self._changed(self.store.create(obj))

    def update(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Replace an object of the same name; its uid stays."""
        return self._changed(self.store.update(obj))

    def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Create or update."""
        return self.update(obj) if key_of(obj) in self.store.objects else self.create(obj)

    def get(self, name: str, namespace: str = "default", plural: str = "pods") -> dict[str, Any]:
        """A copy of the object."""
        return copy.deepcopy(self.store.get((plural, namespace, name)).obj)

    def patch(
        self, name: str, change: dict[str, Any], namespace: str = "default", plural: str = "pods"
    ) -> dict[str, Any]:
        """Merge `change` in, whatever part of the object it is about; None removes."""
        old = self.store.get((plural, namespace, name)).obj
        return self._changed(self.store.update(merge(old, change, strategic=True)))

    def terminate(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """The first half of a pod's deletion: it gets its `deletionTimestamp`."""
        mark = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30}
        return self.patch(name, {"metadata": mark}, namespace)

    def delete(self, name: str, namespace: str = "default", plural: str = "pods") -> None:
        """Remove the object, as a deletion with grace 0 does."""
        self.store.remove((plural, namespace, name))
        self._noticed()

    def _changed(self, stored: Stored) -> dict[str, Any]:
        self._noticed()
        return copy.deepcopy(stored.obj)

    # Requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        entry = Request("", "", "", "", dict(request.query), dict(request.headers), request.path)
        self.requests.append(entry)
        self._noticed()
        try:
            response = await self._answer(request, entry)
            await self._pass_gates(entry, answers=True)
            entry.status = response.status
            return response
        except Refused as refused:
            entry.status = refused.code
            headers = {} if refused.retry_after is None else {"Retry-After": f"{refused.retry_after:g}"}
            return web.json_response(refused.status, status=refused.code, headers=headers)
        finally:
            self._noticed()

    async def _answer(self, request: web.BaseRequest, entry: Request) -> web.StreamResponse:
        user = self._authenticate(entry)
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.2"})
        if request.path.rstrip("/") == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            entry.verb, entry.plural = "create", "selfsubjectaccessreviews"
            await self._meddle(entry)
            return self._review(await read_body(request), user)
        target = parse_path(request.path)
        entry.plural = target.kind.plural + (f"/{target.subresource}" if target.subresource else "")
        entry.namespace, entry.name = target.namespace, target.name
        entry.verb = verb_of(request.method, target, entry.query)
        await self._meddle(entry)
        self._authorize(entry, target, user)
        if entry.verb == "watch":
            return await self._watch(request, target, entry)
        if entry.verb == "list":
            return self._list(request, target, entry.query)
        if entry.verb == "get":
            return _json(self.store.get(target.key))
        entry.body = body = await read_body(request)
        if entry.verb == "create":
            return _json(kube_writes.post(self.store, target, body), status=201)
        if entry.verb == "update":
            return _json(kube_writes.put(self.store, target, body))
        if entry.verb == "patch":
            return _json(kube_writes.patch(self.store, target, body, request.content_type))
        return _json(kube_writes.delete(self.store, target.key, {**body, **entry.query}))

    def _authenticate(self, entry: Request) -> str:
        if self.tokens is None:
            return "anonymous"
        if entry.token not in self.tokens:
            raise Refused(401, "Unauthorized")
        return self.tokens[entry.token]

    def _authorize(self, entry: Request, target: Target, user: str) -> None:
        if not self.allows(entry.verb, entry.plural, target.namespace, user):
            named = f' "{target.name}"' if target.name else ""
            where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
            raise Refused(
                403,
                f'{target.kind.plural}{named} is forbidden: User "{user}" cannot {entry.verb} resource '
                f'"{entry.plural}" in API group "{target.kind.group}" {where}',
                details={"kind": target.kind.plural, "group": target.kind.group, "name": target.name},
            )

    def _review(self, body: Any, user: str) -> web.Response:
        """SelfSubjectAccessReview: may I?"""
        asked = body["spec"]["resourceAttributes"]
        allowed = self.allows(
            asked.get("verb", ""), asked.get("resource", ""), asked.get("namespace", ""), user
        )
        answer = {**body, "metadata": {"creationTimestamp": None}, "status": {"allowed": allowed}}
        if allowed:
            answer["status"]["reason"] = "RBAC: allowed"
        return web.json_response(answer, status=201)

    # Lists

    def _list(self, request: web.BaseRequest, target: Target, query: Mapping[str, str]) -> web.Response:
        limit = int(query.get("limit") or 0)
        wanted = query.get("resourceVersion", "")
        if token := query.get("continue", ""):
            if wanted not in ("", "0"):
                raise Refused(400, "specifying resource version is not allowed when using continue")
            pages = self._continued(token)
        else:
            if wanted.isdigit() and int(wanted) > self.store.version:
                raise _too_large(int(wanted), self.store.version)
            scope = self._scope(target, query)
            pages = _Pages(self.store.version, list(self.store.list(scope)))
            if wanted == "0":
                limit = 0  # served from the cache, which knows no pages: seen on a real server
        metadata: dict[str, Any] = {"resourceVersion": str(pages.version)}
        items = pages.items
        if limit and len(items) > limit:
            items, rest = items[:limit], items[limit:]
            metadata["continue"] = self._token(_Pages(pages.version, rest))
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = len(rest)
        kind = target.kind
        head = {"kind": kind.kind + "List", "apiVersion": kind.api_version, "metadata": metadata}
        # Items of a list carry neither kind nor apiVersion.
        bare = [{k: v for k, v in one.obj.items() if k not in ("kind", "apiVersion")} for one in items]
        text = json.dumps({**head, "items": bare}, ensure_ascii=False).encode()
        response = web.Response(body=text, content_type="application/json")
        if len(text) > GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    def _token(self, pages: _Pages) -> str:
        content = {"v": "meta.k8s.io/v1", "rv": pages.version, "start": f"page-{next(self._tokens_made)}"}
        token = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
        self._pages[token] = pages
        return token

    def _continued(self, token: str) -> _Pages:
        if token not in self._pages:
            raise Refused(400, "continue key is not valid: unknown")
        pages = self._pages[token]
        if pages.version < self.store.oldest:
            # The real message goes on about the inconsistent continuation it offers.
            raise Refused(
                410,
                "The provided continue parameter is too old to display a consistent list result. You can "
                "start a new list without the continue parameter, or use the continue token in this "
                "response to retrieve the remainder of the results.",
                metadata={"continue": self._token(_Pages(self.store.version, pages.items))},
            )
        return pages

    def _scope(self, target: Target, query: Mapping[str, str]) -> Scope:
        fields = query.get("fieldSelector", "")
        if target.name:
            fields = ",".join(part for part in (fields, f"metadata.name={target.name}") if part)
        matches = selector(target.kind.plural, query.get("labelSelector", ""), fields)
        return Scope(target.kind.plural, target.namespace, matches)

    # Watches

    async def _watch(self, request: web.BaseRequest, target: Target, entry: Request) -> web.StreamResponse:
        query = entry.query
        initial = query.get("sendInitialEvents")
        if self.streaming_list == "ignored":
            initial = None
        elif initial is not None and self.streaming_list == "refused":
            gate = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            raise _invalid("sendInitialEvents", gate)
        elif initial is not None and query.get("resourceVersionMatch") != "NotOlderThan":
            raise _invalid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )
        elif initial is None and "resourceVersionMatch" in query:
            raise _invalid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
        watch = Watch(self.store, self._scope(target, query), query)
        if initial == "true" and self.streaming_list == "no progress":
            watch.error(status_object(500, "etcd does not support progress requests"))
        elif initial == "true" and self.streaming_list == "silent":
            watch.stuck = True
        else:
            watch.start(streaming_list=initial == "true")
        self._greet(watch)
        self.watches.append(watch)
        entry.status = 200
        try:
            return await watch.serve(request, self._gate, self._piece)
        finally:
            watch.stop()
            self.watches.remove(watch)
            self._noticed()

    # Waiting, for tests

    async def until(self, condition: Callable[[], bool], what: str, within: float = 5.0) -> None:
        """Wait until `condition` holds; it is looked at after whatever happens here.

        Raises:
            AssertionError: It does not in `within` seconds; says `what` and what was asked.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    await self._activity()
        if not condition():
            asked = "\n".join(
                f"  {one.verb} {one.path} {one.query} {one.status}" for one in self.requests[-20:]
            )
            raise AssertionError(f"{what}: not within {within:g} s; requests at the end:\n{asked}")

    def count(self, verb: str, plural: str = "pods") -> int:
        """How many such requests there have been."""
        return sum(one.verb == verb and one.plural == plural for one in self.requests)

    async def asked(self, verb: str, times: int, plural: str = "pods", within: float = 5.0) -> None:
        """Wait until there have been so many such requests."""
        await self.until(lambda: self.count(verb, plural) >= times, f"{verb} {plural} {times} times", within)

    async def watched(self, plural: str = "pods", count: int = 1, within: float = 5.0) -> None:
        """Wait until `count` watches have said all there was and only changes follow."""

        def live() -> bool:
            return (
                sum(one.live and not one.stuck and one.scope.plural == plural for one in self.watches)
                >= count
            )

        await self.until(live, f"{count} live watches of {plural}", within)


def _json(stored: Stored, status: int = 200) -> web.Response:
    return web.Response(body=stored.json, status=status, content_type="application/json")


def _invalid(field_: str, message: str) -> Refused:
    return Refused(
        422,
        f"ListOptions.meta.k8s.io is invalid: {field_}: Forbidden: {message}",
        details={"causes": [{"reason": "FieldValueForbidden", "message": message, "field": field_}]},
    )


def _too_large(wanted: int, current: int) -> Refused:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return Refused(
        504,
        f"Too large resource version: {wanted}, current: {current}",
        details={"causes": [cause]},
        retry_after=1,
    )
