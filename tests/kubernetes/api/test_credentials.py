"""Where the API server is and who we are, and credentials that change under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import check_namespace
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.settings.config import load
from tests.kubernetes.api.certificates import NEW_CA, OLD_CA, new_server, old_server
from tests.kubernetes.api.logins import Account, Clock, only, token
from tests.kubernetes.api.serving import Served, hello, serving

pytestmark = pytest.mark.usefixtures("no_files_left")


def pod_environment(served: Served, **more: str) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(served.port), **more}


def in_pod(served: Served, account: Account, clock: Callable[[], float]) -> KubeClient:
    return KubeClient(lambda: find_cluster((), pod_environment(served), str(account.folder), clock=clock))


# In a pod


async def test_a_pod_asks_with_its_service_account(account: Account, clock: Clock, tmp_path: Path) -> None:
    async with serving(tls=old_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        assert await client.request("GET", "/version")
        assert served.tokens == [f"Bearer {token()}"]
        assert client.cluster.server == served.url
        assert client.cluster.namespace == "shop"
        assert client.cluster.account == "system:serviceaccount:shop:greeter"
        assert client.describe() == f"{served.url} (service account shop/greeter)"


async def test_a_newline_at_the_end_of_a_token_is_not_sent(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    account.rotate(token() + "\n")
    async with serving(tls=old_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        assert await client.request("GET", "/version")
        assert served.tokens == [f"Bearer {token()}"]


async def test_a_server_of_another_authority_is_not_told_the_token(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with serving(tls=new_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        with pytest.raises(KubeError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.request("GET", "/version")
        assert served.requests == []


async def test_a_token_that_was_replaced_is_used_within_a_second(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with serving(tls=old_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        await client.request("GET", "/version")
        account.rotate(token(serial=1))
        await client.request("GET", "/version")
        clock.now += 1.0
        await client.request("GET", "/version")
        serials = [f"Bearer {token()}", f"Bearer {token()}", f"Bearer {token(serial=1)}"]
        assert served.tokens == serials


async def test_a_401_has_the_token_read_again_at_once(account: Account, clock: Clock, tmp_path: Path) -> None:
    async with (
        serving(only(token(), token(serial=1)), tls=old_server(tmp_path)) as served,
        in_pod(served, account, clock) as client,
    ):
        await client.request("GET", "/version")
        account.rotate(token(serial=1))
    async with (
        serving(only(token(serial=2)), tls=old_server(tmp_path)) as served,
        in_pod(served, account, clock) as client,
    ):
        with pytest.raises(KubeError):
            await client.request("GET", "/version")
        served.requests.clear()
        account.rotate(token(serial=2))
        # The clock stands still: only the 401 says that there is something to read.
        assert await client.request("GET", "/version")
        assert served.tokens == [f"Bearer {token(serial=1)}", f"Bearer {token(serial=2)}"]


async def test_a_stream_too_is_opened_again_after_a_401(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with (
        serving(only(token(serial=1)), tls=old_server(tmp_path)) as served,
        in_pod(served, account, clock) as client,
    ):
        await (await client.find()).login()
        account.rotate(token(serial=1))
        async with client.stream("/", {}, connect_timeout=5, idle_timeout=5):
            pass
        assert len(served.requests) == 2


async def test_a_second_401_is_an_error_that_names_the_account(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with (
        serving(only("another"), tls=old_server(tmp_path)) as served,
        in_pod(served, account, clock) as client,
    ):
        with pytest.raises(KubeError, match="credentials of system:serviceaccount:shop:greeter") as caught:
            await client.request("GET", "/version")
        assert (caught.value.status, caught.value.kind) == (401, "unauthorized")
        assert len(served.requests) == 2
        assert token() not in str(caught.value)


async def test_an_authority_that_was_replaced_is_trusted_and_the_old_one_no_more(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with serving(tls=old_server(tmp_path)) as served:
        client = in_pod(served, account, clock)
        await client.request("GET", "/version")
        port = served.port
    account.rotate(token(), NEW_CA)
    clock.now += 1.0
    async with serving(tls=new_server(tmp_path), port=port) as served, client:
        assert await client.request("GET", "/version")
    async with serving(tls=old_server(tmp_path), port=port), client:
        with pytest.raises(KubeError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.request("GET", "/version")


async def test_a_stream_outlives_the_change_of_authority(
    account: Account, clock: Clock, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def watch(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/watch":
            return await hello(request)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        await go_on.wait()
        await response.write(b"two\n")
        return response

    async with serving(watch, tls=old_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        async with client.stream("/watch", {}, connect_timeout=5, idle_timeout=5) as lines:
            assert await anext(lines) == b"one"
            account.rotate(token(), OLD_CA + NEW_CA)
            clock.now += 1.0
            await client.request("GET", "/version")
            go_on.set()
            assert [line async for line in lines] == [b"two"]
        assert len(client._transports) == 1


async def test_a_token_that_cannot_be_read_for_a_moment_is_no_failure(
    account: Account, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tls=old_server(tmp_path)) as served, in_pod(served, account, clock) as client:
        await client.request("GET", "/version")
        account.rotate("")
        for _ in range(3):
            clock.now += 1.0
            assert await client.request("GET", "/version")
        assert served.tokens == [f"Bearer {token()}"] * 4
        assert caplog.text.count("going on with what was read before") == 1
        account.rotate(token(serial=1))
        clock.now += 1.0
        await client.request("GET", "/version")
        assert served.tokens[-1] == f"Bearer {token(serial=1)}"


async def test_a_pod_without_service_account_is_told_so(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match=r"no service account .*token.*automountServiceAccountToken"):
        await find_cluster((), environ, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_PORT is not"):
        await find_cluster((), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, str(tmp_path))


async def test_the_own_namespace_is_what_the_pod_says_before_all_else(account: Account) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    cluster = await find_cluster((), environ, str(account.folder))
    assert (cluster.server, cluster.namespace) == ("https://[fd00::1]:443", "shop")
    cluster = await find_cluster((), {**environ, "POD_NAMESPACE": "mine"}, str(account.folder))
    assert cluster.namespace == "mine"
    (account.folder / "namespace").unlink()
    assert (await find_cluster((), environ, str(account.folder))).namespace == "default"


@pytest.mark.parametrize(
    "odd", ["opaque", "a.b.c", "a.W10.c", "a.eyJzdWIiOiA3fQ.c", "a.eyJzdWIiOiAiYWRhIn0.c"]
)
async def test_a_token_that_does_not_say_whose_it_is_works_as_well(account: Account, odd: str) -> None:
    account.rotate(odd)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    cluster = await find_cluster((), environ, str(account.folder))
    assert cluster.account == f"the service account in {account.folder}"
    assert cluster.describe() == "https://10.96.0.1:443 (service account)"
    assert (await cluster.login()).authorization == f"Bearer {odd}"


# By a URL


async def test_a_url_is_asked_without_credentials() -> None:
    async with serving() as served, KubeClient(lambda: find_cluster([f"{served.url}/"], {})) as client:
        await client.request("GET", "/version")
        assert served.tokens == [""]
        assert client.cluster.account == ""


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (["http://"], "no URL of a server"),
        (["http://host:port"], "no URL of a server"),
        (["http://host/?a=b"], "no URL of a server"),
        (["10.0.0.1:443"], "no address of the Kubernetes API"),
        (["kubeconfig="], "no address of the Kubernetes API"),
        (["cluster=x"], "no address of the Kubernetes API"),
        (["context=a", "context=b"], "context is given twice"),
        (["http://a", "http://b"], "url is given twice"),
        (["http://a", "context=b"], "not both"),
    ],
)
async def test_an_address_that_means_nothing_is_refused(address: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"registry_address: .*{complaint}"):
        await find_cluster(address, {})


async def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="password") as caught:
        await find_cluster(["https://ada:secret@host"], {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "Shop", "-a", "a" * 64, "shop\n", "a" * 5000])
async def test_what_can_be_no_namespace_is_no_part_of_a_path(name: str, account: Account) -> None:
    with pytest.raises(ConfigError, match=r"'.*no namespace") as refusal:
        check_namespace(name, "registry_namespace")
    assert len(str(refusal.value)) < 400
    config = load({"registry_namespace": ["shop", name]}, environ={})
    if name and name == name.strip():  # the setting is stripped, and what is empty left out
        with pytest.raises(ConfigError, match=r"^registry_namespace: "):
            KubernetesRegistry(config, environ={})
        with pytest.raises(ConfigError, match=r"^POD_NAMESPACE, or the namespace of these credentials: "):
            await find_cluster(["http://127.0.0.1:1"], {"POD_NAMESPACE": name})


@pytest.mark.parametrize("name", ["shop", "a", "9", "a-1", "a" * 63])
def test_other_names_are_names_of_namespaces(name: str) -> None:
    assert check_namespace(name, "registry_namespace") == name
    KubernetesRegistry(load({"registry_namespace": [name, "*"]}, environ={}), environ={})
