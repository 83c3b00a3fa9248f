"""Requests: what is sent, what comes of the answers, and connections that are left clean."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import socket
import subprocess
import sys
import warnings
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from pymicro._version import __version__
from pymicro.kubernetes.api import client as client_module
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import ENDPOINT_SLICES, PODS, Asked
from tests.kubernetes.api.serving import hello, serving
from tests.processes import ROOT


def client_of(url: str) -> KubeClient:
    return KubeClient(lambda: find_cluster([url], environ={}))


def answering(status: int, body: Any = None, **headers: str) -> Any:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.Response(status=status, body=text, headers=named)

    return answer


async def refused(handler: Any, method: str = "GET", path: str = "/api/v1/namespaces/shop/pods") -> KubeError:
    async with serving(handler) as served, client_of(served.url) as client:
        with pytest.raises(KubeError) as caught:
            await client.request(method, path, timeout=5)
        return caught.value


# What is sent


async def test_a_request_goes_out_as_it_was_asked() -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        return web.json_response({"query": dict(request.query), "body": body})

    async with serving(echo) as served, client_of(served.url) as client:
        answer = await client.request(
            "PATCH",
            PODS.path("shop", "greeter-1"),
            params={"fieldManager": "a&b=c"},
            body={"metadata": {"labels": {"micro.mu/type": None}}},
            content_type="application/strategic-merge-patch+json",
        )
    assert answer == {
        "query": {"fieldManager": "a&b=c"},
        "body": {"metadata": {"labels": {"micro.mu/type": None}}},
    }
    (request,) = served.requests
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/shop/pods/greeter-1")
    assert request.headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert request.headers["User-Agent"] == f"pymicro/{__version__}"
    # Compressed lists would have to be unpacked on the loop.
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in request.headers


async def test_a_selector_arrives_whole() -> None:
    selector = "micro.mu/type=service,micro.mu/selector-a_b in (x,y),c!=d"
    async with serving() as served, client_of(served.url) as client:
        await client.request("GET", "/api/v1/pods", params={"labelSelector": selector})
    assert served.requests[0].query["labelSelector"] == selector


async def test_a_path_before_the_api_is_kept() -> None:
    async with serving() as served, client_of(f"{served.url}/k8s/clusters/c-1/") as client:
        assert await client.request("GET", "/version") == {"path": "/k8s/clusters/c-1/version"}


async def test_nothing_is_looked_for_or_opened_before_the_first_request() -> None:
    looked = 0

    async def find() -> Any:
        nonlocal looked
        looked += 1
        return await find_cluster([served.url], environ={})

    async with serving() as served, KubeClient(find) as client:
        assert client.describe() == "the Kubernetes API"
        with pytest.raises(RuntimeError, match="not been asked"):
            _ = client.cluster
        assert looked == 0
        await asyncio.gather(*(client.request("GET", "/version") for _ in range(5)))
        assert looked == 1
        assert client.describe() == f"{served.url} (without credentials)"
        assert client.cluster.namespace == "default"


async def test_a_client_that_was_left_can_be_entered_again() -> None:
    async with serving() as served:
        client = client_of(served.url)
        for _ in range(2):
            async with client:
                assert await client.request("GET", "/version")
            with pytest.raises(RuntimeError):
                _ = client.cluster


# What comes back


async def test_a_refusal_says_what_was_asked_of_whom_and_what_came() -> None:
    status = {
        "kind": "Status",
        "reason": "Invalid",
        "message": 'Pod "x"\n is invalid',
        "details": {"retryAfterSeconds": 3},
    }
    error = await refused(answering(422, status))
    assert str(error).startswith("cannot list pods in namespace shop at http://127.0.0.1:")
    assert str(error).endswith(': it answered 422 Invalid: Pod "x" is invalid')
    assert (error.status, error.reason, error.retry_after, error.kind) == (422, "Invalid", 3.0, "refused")
    assert not error.expired


async def test_a_403_names_the_account_and_the_rule_that_is_missing() -> None:
    error = await refused(answering(403, {"reason": "Forbidden", "message": "no"}))
    assert str(error).startswith(
        "a client without credentials may not list pods in namespace shop at http://127.0.0.1:"
    )
    # Listing alone is of no use to who must watch too.
    assert str(error).endswith(
        "(403 Forbidden: no); this RBAC rule is missing:\n"
        "# under `rules` of a Role in namespace shop, bound to the account\n"
        '- apiGroups: [""]\n'
        '  resources: ["pods"]\n'
        '  verbs: ["list", "watch"]'
    )
    assert (error.status, error.kind) == (403, "forbidden")
    patched = await refused(answering(403, {}), "PATCH", PODS.path("shop", "greeter-1"))
    assert "may not patch pods greeter-1 in namespace shop" in str(patched)
    assert 'verbs: ["patch"]' in str(patched)


@pytest.mark.parametrize(
    "said",
    [
        "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: it names its own addresses only",
        'admission webhook "x.example.com" denied the request: it names its own addresses only',
    ],
)
async def test_a_403_of_admission_names_no_rule_for_a_role(said: str) -> None:
    message = f'pods "greeter-1" is forbidden: {said}'
    answer = answering(403, {"reason": "Forbidden", "message": message})
    error = await refused(answer, "PATCH", PODS.path("shop", "greeter-1"))
    assert str(error).startswith("cannot patch pods greeter-1 in namespace shop at http://127.0.0.1:")
    assert str(error).endswith(f"the cluster's admission control refused it (403 Forbidden: {message})")
    assert "RBAC" not in str(error)
    assert (error.status, error.kind) == (403, "forbidden")


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "retry_after"),
    [
        (410, {"reason": "Expired"}, {}, "expired", None),
        (410, {"reason": "Gone"}, {}, "expired", None),
        (429, {"details": {"retryAfterSeconds": 1}}, {"Retry_After": "7"}, "throttled", 7.0),
        (429, {}, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "throttled", None),
        (500, b"<html>", {}, "server", None),
        (503, [], {"Retry_After": "1"}, "server", 1.0),
        (404, {}, {}, "missing", None),
        (400, {"reason": 7, "message": {}, "details": []}, {}, "refused", None),
        (422, b"[" * 100_000, {}, "refused", None),
    ],
)
async def test_refusals_are_told_apart_whatever_their_body(
    status: int, body: Any, headers: dict[str, str], kind: str, retry_after: float | None
) -> None:
    error = await refused(answering(status, body, **headers))
    assert (error.status, error.kind, error.retry_after) == (status, kind, retry_after)


async def test_a_version_from_the_future_is_as_useless_as_an_expired_one() -> None:
    status = {"reason": "Timeout", "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}
    assert (await refused(answering(504, status))).expired


async def test_a_long_refusal_is_cut_and_does_not_break_the_line() -> None:
    error = await refused(answering(500, {"message": "\x1b[2J" + "long " * 1000}))
    assert len(str(error)) < 700
    assert str(error).isprintable()


async def test_an_answer_that_is_no_json_is_an_error() -> None:
    error = await refused(answering(200, b"<html>"))
    assert "cannot list pods in namespace shop" in str(error)
    assert "is no JSON" in str(error)
    assert (error.status, error.kind) == (0, "malformed")


async def test_a_server_that_is_not_there_is_an_error_without_a_status() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with client_of(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(KubeError, match="cannot list pods in all namespaces at http://127") as caught:
                await client.request("GET", "/api/v1/pods")
    assert (caught.value.status, caught.value.kind) == (0, "connection")


@pytest.mark.parametrize("begun", [False, True])
async def test_a_server_that_does_not_answer_is_left_in_time(begun: bool) -> None:
    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        if begun:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"a":')
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(silent) as served, client_of(served.url) as client:
        with pytest.raises(KubeError, match=r"cannot list pods .*: no answer within 0\.1 s") as caught:
            await client.request("GET", "/api/v1/pods", timeout=0.1)
        assert caught.value.kind == "timeout"
        await client.__aexit__(None, None, None)


async def test_a_server_that_breaks_off_is_an_error() -> None:
    async def breaks(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"a":')
        assert request.transport is not None
        request.transport.close()
        return response

    assert (await refused(breaks)).kind == "connection"


async def test_an_answer_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_LARGEST_ANSWER", 100_000)

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 10_000)

    error = await refused(endless)
    assert "the answer is longer than 100000 bytes" in str(error)
    assert error.kind == "malformed"


async def test_what_is_no_http_is_an_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with client_of(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(KubeError) as caught:
                await client.request("GET", "/version")
    assert caught.value.status == 0


# Redirects


def redirecting(to: str, status: int = 302) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return await hello(request)
        return web.Response(status=status, headers={"Location": to})

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_server_is_followed(status: int) -> None:
    async with serving(redirecting("../version", status)) as served, client_of(served.url) as client:
        assert await client.request("GET", "/old/version") == {"path": "/version"}


async def test_a_redirect_to_another_server_is_not_followed() -> None:
    async with serving() as other:
        # The same host, but who listens on another port is somebody else.
        error = await refused(redirecting(f"{other.url}/version"))
        assert other.requests == []
    place = other.url.removeprefix("http://")
    assert f": it answered 302, a redirect to {place!r}, which is not followed" in str(error)
    assert error.status == 302


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_redirect_without_end_ends(method: str) -> None:
    error = await refused(redirecting("/round", 307), method, "/round")
    assert "it answered 307" in str(error)


async def test_a_cookie_is_not_kept() -> None:
    async def setting(request: web.BaseRequest) -> web.StreamResponse:
        response = web.json_response({})
        response.set_cookie("balancer", "7")
        return response

    async with serving(setting) as served, client_of(served.url.replace("127.0.0.1", "localhost")) as client:
        for _ in range(2):
            await client.request("GET", "/version")
    assert ["Cookie" in request.headers for request in served.requests] == [False, False]


async def test_a_body_has_a_type_and_its_absence_has_none() -> None:
    async with serving() as served, client_of(served.url) as client:
        await client.request("GET", "/version")
        await client.request("POST", "/version", body={})
    assert ["Content-Type" in request.headers for request in served.requests] == [False, True]


# Streams


async def test_a_stream_is_read_line_by_line_as_it_comes() -> None:
    more = asyncio.Event()

    async def watch(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\nt")
        await more.wait()
        await response.write(b"wo\n")
        return response

    async with serving(watch) as served, client_of(served.url) as client:
        stream = client.stream("/api/v1/pods", {"watch": "1"}, connect_timeout=5, idle_timeout=5)
        async with stream as lines:
            assert await anext(lines) == b"one"
            more.set()
            assert [line async for line in lines] == [b"two"]


async def test_so_many_streams_may_be_open_as_there_are_services_to_watch() -> None:
    done = asyncio.Event()

    async def watch(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await done.wait()
        return response

    async with serving(watch) as served, client_of(served.url) as client, AsyncExitStack() as streams:
        for _ in range(130):  # aiohttp allows a hundred connections
            stream = client.stream("/api/v1/pods", {"watch": "1"}, connect_timeout=5, idle_timeout=5)
            await streams.enter_async_context(stream)
        done.set()


async def test_a_stream_that_is_refused_is_so_on_entering() -> None:
    async with serving(answering(410, {"reason": "Expired"})) as served, client_of(served.url) as client:
        with pytest.raises(KubeError, match="cannot watch pods in all namespaces") as caught:
            async with client.stream("/api/v1/pods", {"watch": "1"}, connect_timeout=5, idle_timeout=5):
                pytest.fail("entered")
    assert caught.value.expired


async def test_a_stream_left_early_ends_its_connection() -> None:
    left = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"line\n")
                await asyncio.sleep(0.001)
        finally:
            left.set()

    async with serving(endless) as served, client_of(served.url) as client:
        async with client.stream("/", {}, connect_timeout=5, idle_timeout=5) as lines:
            await anext(lines)
        await asyncio.wait_for(left.wait(), 5)


async def test_a_stream_cut_by_the_network_is_an_error_and_no_end() -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"one\n")
        await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.close()
        return response

    async with (
        serving(cut) as served,
        client_of(served.url) as client,
        client.stream("/api/v1/pods", {"watch": "1"}, connect_timeout=5, idle_timeout=5) as lines,
    ):
        with pytest.raises(KubeError, match="cannot watch pods") as caught:
            _ = [line async for line in lines]
    assert (caught.value.status, caught.value.kind) == (0, "connection")


async def test_closing_leaves_no_connection_for_the_collector() -> None:
    async with serving(answering(200, b"{}\n")) as served:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            async with client_of(served.url) as client:
                await asyncio.gather(*(client.request("GET", "/version") for _ in range(3)))
                async with client.stream("/", {}, connect_timeout=5, idle_timeout=5) as lines:
                    _ = [line async for line in lines]
            del client, lines
            gc.collect()
    assert [str(one.message) for one in complaints if one.category is ResourceWarning] == []


async def test_requests_share_connections() -> None:
    ports = set()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return await hello(request)

    async with serving(answer) as served, client_of(served.url) as client:
        for _ in range(5):
            await client.request("GET", "/version")
    assert len(ports) == 1


@pytest.mark.parametrize("absent", ["aiohttp", "kubernetes_asyncio", "grpc"])
def test_importing_costs_nothing_of_what_it_uses_later(absent: str) -> None:
    code = "import pymicro.kubernetes.api.access, pymicro.kubernetes.api.reflectors, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = done.stdout.split()
    assert "pymicro.kubernetes.api.client" in loaded
    assert absent not in loaded


# Words


@pytest.mark.parametrize(
    ("method", "path", "params", "said"),
    [
        ("GET", "/api/v1/namespaces/shop/pods", {}, "list pods in namespace shop"),
        ("GET", "/api/v1/namespaces/shop/pods", {"watch": "1"}, "watch pods in namespace shop"),
        ("GET", "/api/v1/pods", {"watch": "true"}, "watch pods in all namespaces"),
        ("GET", "/api/v1/namespaces/shop/pods/a%2Fb", {}, "get pods a/b in namespace shop"),
        ("PATCH", "/api/v1/namespaces/shop/pods/a", {}, "patch pods a in namespace shop"),
        ("GET", "/api/v1/namespaces", {}, "list namespaces in all namespaces"),
        ("GET", "/api/v1/namespaces/shop", {}, "get namespaces shop"),
        (
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {},
            "create selfsubjectaccessreviews",
        ),
        ("GET", "/version", {}, "get /version"),
        ("GET", "/api/v1", {}, "get /api/v1"),
    ],
)
def test_requests_are_named_in_the_words_of_rbac(
    method: str, path: str, params: dict[str, str], said: str
) -> None:
    assert str(Asked.of(method, path, params)) == said


def test_paths_are_those_of_the_api() -> None:
    assert PODS.path("shop") == "/api/v1/namespaces/shop/pods"
    assert PODS.path(None) == "/api/v1/pods"
    assert PODS.path("a/b", "c d") == "/api/v1/namespaces/a%2Fb/pods/c%20d"
    assert ENDPOINT_SLICES.path("x") == "/apis/discovery.k8s.io/v1/namespaces/x/endpointslices"


@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_keeps_what_it_says_when_it_is_copied(duplicate: Any) -> None:
    error = KubeError("no", status=429, reason="Busy", retry_after=2.0, kind="odd")
    same = duplicate(error)
    assert (str(same), same.status, same.reason, same.retry_after, same.kind) == (
        "no",
        429,
        "Busy",
        2.0,
        "odd",
    )
