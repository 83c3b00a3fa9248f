"""Proxies: which one leads to the server, and what is said of it.

`tests/cluster/test_kubectl.py` holds the same against kubectl.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.proxies import proxy_for, without_password
from tests.kubernetes.api.certificates import OLD_CA, old_server
from tests.kubernetes.api.logins import Account, data, write
from tests.kubernetes.api.serving import serving

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
FAR = "https://api.example:6443"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (FAR, {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        (FAR, {"https_proxy": "http://p:3128"}, "http://p:3128"),
        (FAR, {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://p:1"),
        (FAR, {"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        (FAR, {"HTTPS_PROXY": "https://p"}, "https://p"),
        (FAR, {"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://q:1"}, ""),
        (FAR, {"HTTPS_PROXY": ""}, ""),
        ("http://api.example", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://api.example", {"HTTPS_PROXY": "http://p:1"}, ""),
    ],
)
def test_the_scheme_of_the_server_chooses_the_variable(url: str, environ: dict[str, str], proxy: str) -> None:
    assert proxy_for(url, environ) == proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_is_asked_directly(host: str) -> None:
    assert proxy_for(f"https://{host}:6443", {"HTTPS_PROXY": "http://p:1"}) == ""


def test_in_a_pod_the_environment_names_no_proxy() -> None:
    assert proxy_for("https://10.96.0.1:443", {"HTTPS_PROXY": "http://p:1", **POD}) == ""


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("*", "api.example", True),
        ("10.0.0.0/8", "10.96.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("192.168.0.0/16 , 10.0.0.0/8", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.10", False),
        ("10.96.0.1:6443", "10.96.0.1", True),
        ("10.96.0.1:443", "10.96.0.1", False),
        ("fd00::/8", "[fd00::7]", True),
        ("fd00::7", "[fd00::7]", True),
        ("[fd00::7]:6443", "[fd00::7]", True),
        ("[fd00::7]:443", "[fd00::7]", False),
        ("fd00::/8", "10.96.0.1", False),
        ("api.example", "api.example", True),
        ("API.Example", "api.example", True),
        ("example", "api.example", True),
        (".example", "api.example", True),
        ("*.example", "api.example", True),
        (".api.example", "api.example", False),
        ("pi.example", "api.example", False),
        ("api.example:6443", "api.example", True),
        ("api.example:443", "api.example", False),
        ("0.1", "10.96.0.1", False),
        ("", "api.example", False),
        (" ,, ,", "api.example", False),
        ("[,a/b,//,:::,a:b,[", "api.example", False),
    ],
)
def test_no_proxy_excepts_names_addresses_ranges_and_ports(no_proxy: str, host: str, excepted: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy}
    assert (proxy_for(f"https://{host}:6443", environ) == "") is excepted


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("socks5://ada:secret@p:1080", "HTTPS_PROXY: the proxy 'socks5://p:1080' cannot be used: "),
        ("http://", "HTTPS_PROXY: 'http://' is no URL of a proxy"),
        ("http://ada:secret@p:port", "HTTPS_PROXY: 'http://p:port' is no URL of a proxy"),
        ("http://[ada:secret@", "is no URL of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error_without_its_password(given: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        proxy_for(FAR, {"HTTPS_PROXY": given})
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_is_left_out_of_messages() -> None:
    assert without_password("http://ada:p@ss@p:1/x") == "http://p:1/x"
    assert without_password("p:1") == "p:1"


async def test_a_server_far_away_is_asked_through_the_proxy(tmp_path: Path) -> None:
    path = write(tmp_path, cluster={"server": "http://api.example:8080"})
    async with serving() as proxy:
        environ = {"KUBECONFIG": path, "HTTP_PROXY": proxy.url.replace("http://", "http://ada:p%40ss@")}
        async with KubeClient(lambda: find_cluster((), environ)) as client:
            await client.request("GET", "/version")
        (asked,) = proxy.requests
        assert asked.headers["Host"] == "api.example:8080"
        assert asked.headers["Proxy-Authorization"] == f"Basic {data('ada:p@ss')}"


async def test_the_proxy_of_a_kubeconfig_comes_before_all(tmp_path: Path) -> None:
    async with serving() as proxy:
        path = write(tmp_path, cluster={"server": "http://127.0.0.1:1", "proxy-url": proxy.url})
        environ = {"KUBECONFIG": path, "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*", **POD}
        async with KubeClient(lambda: find_cluster((), environ)) as client:
            await client.request("GET", "/version")
        assert len(proxy.requests) == 1


async def test_a_pod_does_not_ask_its_api_server_through_a_proxy(account: Account, tmp_path: Path) -> None:
    async with serving(tls=old_server(tmp_path)) as served, serving() as proxy:
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(served.port)}
        environ |= {"HTTPS_PROXY": proxy.url}
        async with KubeClient(lambda: find_cluster((), environ, str(account.folder))) as client:
            await client.request("GET", "/version")
        for address in ((), ["https://10.96.0.1"]):
            cluster = await find_cluster(address, environ | POD, str(account.folder))
            assert (await cluster.login()).proxy == ""
        assert proxy.requests == []


@contextlib.asynccontextmanager
async def refusing(answer: bytes) -> AsyncIterator[str]:
    """A proxy that leads nowhere; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://ada:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "the proxy answered 407 Proxy Authentication",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy answered 403 Forbidden"),
        (None, "the proxy cannot be reached"),
    ],
)
async def test_a_proxy_that_refuses_is_named_in_the_error(
    tmp_path: Path, answer: bytes | None, complaint: str
) -> None:
    async with refusing(answer or b"") as url:
        proxy = url if answer else "http://ada:secret@127.0.0.1:1"
        cluster = {"server": FAR, "certificate-authority-data": data(OLD_CA), "proxy-url": proxy}
        path = write(tmp_path, cluster=cluster, user={"token": "t"})
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
            with pytest.raises(KubeError) as caught:
                await client.request("GET", "/api/v1/pods")
    named = proxy.replace("ada:secret@", "")
    assert f"cannot list pods in all namespaces at {FAR} through the proxy {named}: " in str(caught.value)
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.kind == "proxy"


async def test_nothing_is_taken_from_a_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login eve password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving() as served:
        path = write(tmp_path, cluster={"server": served.url}, user={"token": "t"})
        for address in ([served.url], [f"kubeconfig={path}"]):
            async with KubeClient(lambda: find_cluster(address, {})) as client:  # noqa: B023
                await client.request("GET", "/version")
        assert served.tokens == ["", "Bearer t"]


async def test_the_variables_of_the_process_are_not_looked_at_behind_our_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving() as served:
        url = served.url.replace("127.0.0.1", "0.0.0.0")
        async with KubeClient(lambda: find_cluster([url], {})) as client:
            await client.request("GET", "/version")
        assert len(served.requests) == 1
