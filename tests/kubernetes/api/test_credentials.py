"""Where the API server is and who we are, and credentials that change under way."""

# ruff: noqa: ASYNC240 - files in a temporary folder block nobody in a test

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api import plugin
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import Cluster, find_cluster
from pymicro.kubernetes.api.errors import KubeError
from tests.kubernetes.api.certificates import ADA, ADA_KEY, NEW_CA, OLD_CA, new_server, old_server
from tests.kubernetes.api.serving import Served, hello, serving


def token(name: str = "greeter", serial: int = 0) -> str:
    """A token as Kubernetes makes them, but for its signature."""
    claims = {"sub": f"system:serviceaccount:shop:{name}", "serial": serial}
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b"{}", json.dumps(claims).encode(), b"s")
    )


class Account:
    """A service account's folder: files behind a symbolic link, which a rotation replaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._serial = 0
        folder.mkdir()
        for name in ("token", "ca.crt", "namespace"):
            (folder / name).symlink_to(Path("..data") / name)
        self.rotate(token(), OLD_CA)

    def rotate(self, token: str, ca: str = OLD_CA) -> None:
        self._serial += 1
        data = self.folder / f"..{self._serial}"
        data.mkdir()
        (data / "token").write_text(token)
        (data / "ca.crt").write_text(ca)
        (data / "namespace").write_text("shop")
        link = self.folder / "..new"
        link.symlink_to(data.name)
        link.replace(self.folder / "..data")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path / "serviceaccount")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_files_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Certificates are written to temporary files; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    gc.collect()
    assert list(folder.iterdir()) == []


def pod_environment(served: Served, **more: str) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(served.port), **more}


def in_pod(served: Served, account: Account, clock: Callable[[], float]) -> KubeClient:
    return KubeClient(lambda: find_cluster((), pod_environment(served), str(account.folder), clock=clock))


def only(*tokens: str) -> Any:
    """Lets in who has one of these tokens."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") not in [f"Bearer {one}" for one in tokens]:
            return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)
        return await hello(request)

    return answer


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


# By a kubeconfig


def write(folder: Path, name: str = "config", **changes: Any) -> str:
    """A kubeconfig with one context; `cluster` and `user` are its sections."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "ada", "namespace": "garden"}}],
        "clusters": [{"name": "c", "cluster": changes.pop("cluster")}],
        "users": [{"name": "ada", "user": changes.pop("user", {})}],
        **changes,
    }
    path = folder / name
    # JSON is YAML.
    path.write_text(json.dumps(document))
    return str(path)


def data(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


async def test_outside_a_pod_the_kubeconfig_of_the_environment_counts(tmp_path: Path) -> None:
    async with serving(only("secret")) as served:
        path = write(tmp_path, cluster={"server": f"{served.url}/"}, user={"token": "secret"})
        async with KubeClient(lambda: find_cluster((), {"KUBECONFIG": path})) as client:
            assert await client.request("GET", "/version") == {"path": "/version"}
            assert (client.cluster.namespace, client.cluster.account) == ("garden", "ada")
            assert client.describe() == f"{served.url} (kubeconfig {path}, context here)"


async def test_the_kubeconfig_at_home_is_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube", cluster={"server": "http://10.0.0.1:1"})
    assert (await find_cluster((), {"HOME": str(tmp_path)})).server == "http://10.0.0.1:1"
    with pytest.raises(ConfigError, match=r"no Kubernetes API server is known.*no ~/\.kube/config"):
        await find_cluster((), {"HOME": str(tmp_path / "elsewhere")})


async def test_in_a_pod_a_kubeconfig_counts_if_it_is_asked_for(tmp_path: Path, account: Account) -> None:
    path = write(tmp_path, cluster={"server": "http://10.0.0.1:1"})
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    folder = str(account.folder)
    for address, more in ([(), {"KUBECONFIG": path}], [[f"kubeconfig={path}"], {}]):
        assert (await find_cluster(address, {**environ, **more}, folder)).server == "http://10.0.0.1:1"


async def test_several_files_are_one_and_a_context_is_chosen_by_name(tmp_path: Path) -> None:
    first = write(tmp_path, "first", cluster={"server": "http://10.0.0.1:1"})
    second = write(
        tmp_path,
        "second",
        cluster={"server": "http://10.0.0.3:1"},
        contexts=[{"name": "there", "context": {"cluster": "d"}}],
        clusters=[{"name": "d", "cluster": {"server": "http://10.0.0.2:1"}}],
    )
    environ = {"KUBECONFIG": os.pathsep.join([first, second, str(tmp_path / "none")])}
    assert (await find_cluster((), environ)).server == "http://10.0.0.1:1"
    there = await find_cluster(["context=there"], environ)
    assert (there.server, there.namespace, there.account) == ("http://10.0.0.2:1", "default", "")
    assert (await there.login()).authorization == ""


async def test_who_makes_another_context_current_does_not_mean_programs_that_run(
    tmp_path: Path, clock: Clock
) -> None:
    contexts = [{"name": name, "context": {"cluster": name}} for name in ("one", "two")]
    clusters = [{"name": name, "cluster": {"server": f"http://{name}:1"}} for name in ("one", "two")]
    both: dict[str, Any] = {"cluster": {}, "contexts": contexts, "clusters": clusters}
    path = write(tmp_path, **{**both, "current-context": "one"})
    cluster = await find_cluster([f"kubeconfig={path}"], {}, clock=clock)
    assert (await cluster.login()).server == "http://one:1"
    write(tmp_path, **{**both, "current-context": "two"})
    clock.now += 1.0
    assert (await cluster.login()).server == "http://one:1"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"current-context": "gone"}, "has no context 'gone'; there are: here"),
        ({"current-context": None}, "has no current context"),
        ({"clusters": []}, "Expected object with name c"),
        ({"users": []}, "context 'here' names user 'ada', who is not in it"),
        ({"cluster": {}}, "cluster 'c' names no server"),
        ({"contexts": None}, "has no context 'here'; there are: none"),
        ({"contexts": [7]}, "cannot be used"),
        ({"cluster": {"server": "https://a", "certificate-authority-data": "%"}}, "is no base64"),
    ],
)
async def test_a_kubeconfig_that_can_never_work_is_refused_with_its_name(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path, **{"cluster": {"server": "http://10.0.0.1:1"}, **change})
    with pytest.raises(ConfigError) as caught:
        await find_cluster([f"kubeconfig={path}"], {})
    assert path in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "a: [", "\x00"])
async def test_what_is_no_kubeconfig_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        await find_cluster([f"kubeconfig={path}"], {})
    with pytest.raises(ConfigError, match="no such file"):
        await find_cluster([f"kubeconfig={path}.not"], {})


@pytest.mark.parametrize("inline", [False, True])
async def test_a_client_certificate_is_shown_and_the_authority_checked(tmp_path: Path, inline: bool) -> None:
    if inline:
        cluster = {"certificate-authority-data": data(OLD_CA)}
        user = {"client-certificate-data": data(ADA), "client-key-data": data(ADA_KEY)}
    else:
        # Relative to the file, not to where the program was started.
        for name, pem in (("ca.pem", OLD_CA), ("ada.pem", ADA), ("ada.key", ADA_KEY)):
            (tmp_path / name).write_text(pem)
        cluster = {"certificate-authority": "ca.pem"}
        user = {"client-certificate": "ada.pem", "client-key": "ada.key"}
    async with serving(tls=old_server(tmp_path, clients=True)) as served:
        path = write(tmp_path, cluster={"server": served.url, **cluster}, user=user)
        # Twice: what the first one wrote is gone when the second one comes.
        for _ in range(2):
            async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
                assert await client.request("GET", "/version")
                folder = Path(tempfile.gettempdir())
                for written in folder.rglob("*"):
                    assert written.stat().st_mode & 0o077 == 0
            assert list(folder.iterdir()) == []
        assert served.peers == ["ada", "ada"]


async def test_certificates_nobody_closed_are_removed_with_their_cluster(tmp_path: Path) -> None:
    path = write(
        tmp_path, cluster={"server": "https://127.0.0.1:1", "certificate-authority-data": data(OLD_CA)}
    )
    cluster: Cluster | None = await find_cluster([f"kubeconfig={path}"], {})
    assert list(Path(tempfile.gettempdir()).iterdir()) != []
    del cluster
    gc.collect()
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


async def test_another_name_of_the_server_and_no_check_at_all_are_possible(tmp_path: Path) -> None:
    async with serving(tls=new_server(tmp_path)) as served:
        trusted = {"certificate-authority-data": data(NEW_CA)}
        for section, works in (
            ({**trusted, "tls-server-name": "kubernetes.default.svc"}, True),
            ({**trusted, "tls-server-name": "example.org"}, False),
            ({"insecure-skip-tls-verify": True}, True),
        ):
            path = write(tmp_path, cluster={"server": served.url, **section})
            async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:  # noqa: B023
                if works:
                    assert await client.request("GET", "/version")
                else:
                    with pytest.raises(KubeError, match=r"example\.org"):
                        await client.request("GET", "/version")


async def test_a_certificate_that_is_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = write(
        tmp_path, cluster={"server": "https://127.0.0.1:1", "certificate-authority-data": data("none")}
    )
    async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
        with pytest.raises(
            KubeError, match=r"certificates for https://127\.0\.0\.1:1 cannot be used"
        ) as caught:
            await client.request("GET", "/version")
    assert caught.value.kind == "credentials"


async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "token").write_text("first\n")
    async with serving() as served:
        path = write(tmp_path, cluster={"server": served.url}, user={"tokenFile": "token"})
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {}, clock=clock)) as client:
            await client.request("GET", "/version")
            (tmp_path / "token").write_text("another\n")
            clock.now += 1.0
            await client.request("GET", "/version")
        assert served.tokens == ["Bearer first", "Bearer another"]


async def test_a_user_with_a_password_is_sent_as_basic(tmp_path: Path) -> None:
    async with serving() as served:
        user = {"username": "ada", "password": "secret"}
        path = write(tmp_path, cluster={"server": served.url}, user=user)
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
            await client.request("GET", "/version")
        assert served.tokens == [f"Basic {data('ada:secret')}"]


async def test_a_token_file_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, cluster={"server": "http://127.0.0.1:1"}, user={"tokenFile": "nowhere"})
    async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
        with pytest.raises(KubeError, match=r"kubeconfig .*context 'here': .*nowhere") as caught:
            await client.request("GET", "/version")
    assert caught.value.kind == "credentials"


# Credential plug-ins

PLUGIN = """\
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "runs").open("a") as runs:
    runs.write(os.environ["KUBERNETES_EXEC_INFO"] + os.environ.get("REGION", "") + "\\n")
sys.stderr.write("x" * 200_000)
print((here / "answer").read_text())
"""


class Plugin:
    """A program that prints what it is told to, and remembers its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugin.py").write_text(PLUGIN)
        self.section: dict[str, Any] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(folder / "plugin.py")],
            "env": [{"name": "REGION", "value": "north"}],
        }

    def give(self, **status: Any) -> None:
        answer = {"apiVersion": self.section["apiVersion"], "kind": "ExecCredential", "status": status}
        (self.folder / "answer").write_text(json.dumps(answer))

    @property
    def runs(self) -> list[str]:
        return (self.folder / "runs").read_text().splitlines()

    def client(self, server: str, clock: Callable[[], float], **cluster: Any) -> KubeClient:
        path = write(self.folder, cluster={"server": server, **cluster}, user={"exec": self.section})
        return KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {}, clock=clock))


@pytest.fixture
def program(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def test_a_plug_in_gives_the_token_and_is_run_once(program: Plugin, clock: Clock) -> None:
    program.give(token="first")
    async with serving() as served, program.client(served.url, clock) as client:
        await asyncio.gather(*(client.request("GET", "/version") for _ in range(3)))
        assert served.tokens == ["Bearer first"] * 3
        (run,) = program.runs
        assert run.endswith("}north")
        info = json.loads(run.removesuffix("north"))
        assert (info["kind"], info["apiVersion"]) == ("ExecCredential", program.section["apiVersion"])


async def test_a_plug_in_is_run_again_before_its_token_runs_out(program: Plugin, clock: Clock) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=100)
    program.give(token="first", expirationTimestamp=expires.isoformat().replace("+00:00", "Z"))
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        program.give(token="second")
        clock.now += 60.0
        await client.request("GET", "/version")
        clock.now += 12.0
        await client.request("GET", "/version")
        assert served.tokens == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_plug_in_whose_tokens_are_stale_is_not_run_for_each_request(
    program: Plugin, clock: Clock
) -> None:
    program.give(token="stale", expirationTimestamp="2020-01-01T00:00:00Z")
    async with serving() as served, program.client(served.url, clock) as client:
        for _ in range(5):
            await client.request("GET", "/version")
        assert len(program.runs) == 1


async def test_a_plug_in_is_run_again_after_a_401(program: Plugin, clock: Clock) -> None:
    program.give(token="first")
    async with serving(only("second")) as served, program.client(served.url, clock) as client:
        await (await client.find()).login()
        program.give(token="second")
        assert await client.request("GET", "/version")
        assert len(program.runs) == 2


async def test_a_plug_in_may_give_a_certificate(program: Plugin, clock: Clock, tmp_path: Path) -> None:
    program.give(clientCertificateData=ADA, clientKeyData=ADA_KEY)
    authority = {"certificate-authority-data": data(OLD_CA)}
    async with serving(tls=old_server(tmp_path, clients=True)) as served:
        async with program.client(served.url, clock, **authority) as client:
            await client.request("GET", "/version")
        assert served.peers == ["ada"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("no JSON", "what it printed is no JSON"),
        ("[]", "what it printed is no ExecCredential"),
        ('{"apiVersion": "v0", "status": {"token": "x"}}', "what it printed is no ExecCredential"),
        (
            '{"apiVersion": "client.authentication.k8s.io/v1", "status": {"clientCertificateData": "x"}}',
            "neither a token nor a certificate with its key",
        ),
        (
            '{"apiVersion": "client.authentication.k8s.io/v1",'
            ' "status": {"token": "x", "expirationTimestamp": "soon"}}',
            "its expirationTimestamp 'soon' is no time",
        ),
    ],
)
async def test_a_plug_in_that_prints_something_else_is_named(
    program: Plugin, clock: Clock, answer: str, complaint: str
) -> None:
    (program.folder / "answer").write_text(answer)
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match=complaint) as caught:
            await client.request("GET", "/version")
    assert sys.executable in str(caught.value)
    assert caught.value.kind == "credentials"


async def test_a_plug_in_that_fails_is_named_with_what_it_said(program: Plugin, clock: Clock) -> None:
    (program.folder / "plugin.py").write_text("import sys; sys.exit('log in first')")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="it exited with 1: log in first"):
            await client.request("GET", "/version")
        program.section.update(command="no-such-plugin", installHint="install it")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="'no-such-plugin': there is no such program: install it"):
            await client.request("GET", "/version")
        program.section.pop("apiVersion")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="missing key 'apiVersion'"):
            await client.request("GET", "/version")


async def test_a_plug_in_that_hangs_is_ended(
    program: Plugin, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_TIMEOUT", 1.0)
    script = f"import os, time; open({str(program.folder / 'pid')!r}, 'w').write(str(os.getpid()))"
    (program.folder / "plugin.py").write_text(f"{script}; time.sleep(600)")
    async with program.client("http://127.0.0.1:1", clock) as client:
        with pytest.raises(KubeError, match="it did not end within 1 s"):
            await client.request("GET", "/version")
    with pytest.raises(ProcessLookupError):
        os.kill(int((program.folder / "pid").read_text()), 0)


async def test_a_relative_plug_in_is_looked_for_beside_its_kubeconfig(
    program: Plugin, clock: Clock, tmp_path: Path
) -> None:
    script = tmp_path / "bin" / "plugin"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nprint(open({str(tmp_path / 'answer')!r}).read())\n")
    script.chmod(0o700)
    program.section.update(command="./bin/plugin", args=[])
    program.give(token="beside")
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        assert served.tokens == ["Bearer beside"]


async def test_a_plug_in_that_fails_later_is_an_error_once_its_token_has_run_out(
    program: Plugin, clock: Clock
) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=100)
    program.give(token="first", expirationTimestamp=expires.isoformat())
    async with serving() as served, program.client(served.url, clock) as client:
        await client.request("GET", "/version")
        (program.folder / "answer").write_text("broken")
        clock.now += 200.0
        with pytest.raises(KubeError, match="is no JSON"):
            await client.request("GET", "/version")
