"""Kubeconfigs: merging, contexts, certificates, tokens, impersonation.

`tests/cluster/test_kubectl.py` gives kubectl and pymicro the same files.
"""

# ruff: noqa: ASYNC240 - files in a temporary folder block nobody in a test

from __future__ import annotations

import json
import os
import pty
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from tests.kubernetes.api.certificates import (
    ADA,
    ADA_KEY,
    NEW_CA,
    OLD_CA,
    new_server,
    old_server,
    plain_certificates,
)
from tests.kubernetes.api.logins import Account, Clock, data, only, write
from tests.kubernetes.api.serving import serving
from tests.processes import ROOT

pytestmark = pytest.mark.usefixtures("no_files_left")


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
        ({"clusters": []}, "context 'here' names cluster 'c', which is not in it"),
        ({"users": []}, "context 'here' names user 'ada', who is not in it"),
        ({"cluster": {}}, "cluster 'c' names no server"),
        ({"contexts": None}, "has no context 'here'; there are: none"),
        ({"contexts": [7]}, "has an entry of contexts that is no mapping"),
        ({"users": {}}, "has users, which is no list"),
        ({"current-context": 7}, "has current-context, which is no text"),
        ({"kind": "Pod"}, "is no kubeconfig: its kind is Pod v1"),
        (
            {"cluster": {"server": "10.0.0.1:6443"}},
            "'10.0.0.1:6443', which is no URL that begins with https://",
        ),
        ({"cluster": {"server": "https://"}}, "'https://', which is no URL"),
        ({"cluster": {"server": "https://ada:secret@a"}}, "cluster 'c' has a password in its server's URL"),
        ({"contexts": [{"name": "here"}]}, "context 'here' names no cluster"),
        ({"contexts": [{"name": "here", "context": {"user": "ada"}}]}, "context 'here' names no cluster"),
        ({"users": [{"name": "ada"}, {"name": "ada"}]}, "has user 'ada' twice"),
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
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "a: [", "\x00", "7"])
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
        for _ in range(2):
            async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
                assert await client.request("GET", "/version")
                # Not even now: there is nothing that a cleaner of temporary files could take away.
                assert list(Path(tempfile.gettempdir()).iterdir()) == []
        assert served.peers == ["ada", "ada"]


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
            KubeError, match="cluster 'c' has certificate-authority, which cannot be used: there is no cert"
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
        with pytest.raises(KubeError, match=r"kubeconfig .*: user 'ada' has tokenFile, .*nowhere") as caught:
            await client.request("GET", "/version")
    assert caught.value.kind == "credentials"


async def test_the_first_current_context_counts_and_empty_files_are_passed_over(
    tmp_path: Path,
) -> None:
    def part(name: str, **more: Any) -> str:
        document = {
            "contexts": [{"name": name, "context": {"cluster": name}}],
            "clusters": [{"name": name, "cluster": {"server": f"http://{name}:1"}}],
            **more,
        }
        (tmp_path / name).write_text(json.dumps(document))
        return str(tmp_path / name)

    (tmp_path / "empty").write_text("")
    (tmp_path / "words").write_text("# nothing here yet\n---\n")
    files = [
        str(tmp_path / "empty"),
        part("none", **{"current-context": ""}),
        str(tmp_path / "words"),
        part("one", **{"current-context": "one"}),
        part("two", **{"current-context": "two"}),
    ]
    environ = {"KUBECONFIG": os.pathsep.join(["", *files])}
    assert (await find_cluster((), environ)).server == "http://one:1"


async def test_of_two_files_with_the_same_name_in_them_the_first_counts_whole(tmp_path: Path) -> None:
    first = write(tmp_path, "first", cluster={"server": "http://127.0.0.1:1"}, user={"token": "first"})
    second = write(tmp_path, "second", cluster={"server": "http://127.0.0.1:2"}, user={"as": "jane"})
    login = await (await find_cluster([f"kubeconfig={first}:{second}"], {})).login()
    assert (login.server, login.authorization) == ("http://127.0.0.1:1", "Bearer first")
    assert login.impersonation == ()


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ({"auth-provider": {"name": "gcp"}}, "auth-provider 'gcp', which kubectl no longer has either"),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "a.e30.c"}}}, "id-token that has run out"),
        ({"as-groups": ["admins"]}, "has as-uid, as-groups or as-user-extra, but no `as`"),
        ({"as": "jane", "as-groups": [7]}, "something in as-groups that is no text"),
        ({"token": "t", "username": "ada"}, "has both a token and a username or password"),
        ({"token": 12345}, "has token, which is no text: put it into quotes"),
        ({"client-certificate-data": "aaaa"}, "a client-certificate without a client-key"),
        (
            {"client-certificate-data": "%", "client-key-data": ""},
            "client-certificate-data, which is no base64",
        ),
        (
            {"client-certificate": "gone", "client-key-data": "aaaa"},
            "client-certificate, which cannot be read",
        ),
        ({"exec": {"command": "aws"}}, "exec has apiVersion ''"),
        ({"token": "one\ntwo"}, "has a line break or the like in a token or name"),
        ({"as": "jane\r\nX: y"}, "has a line break or the like in a token or name"),
    ],
)
async def test_a_user_that_cannot_be_one_is_an_error_that_says_why(
    tmp_path: Path, user: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path, cluster={"server": "https://127.0.0.1:1"}, user=user)
    cluster = await find_cluster([f"kubeconfig={path}"], {})
    with pytest.raises(KubeError) as caught:
        await cluster.login()
    assert f"kubeconfig {path}: user 'ada'" in str(caught.value)
    assert complaint in str(caught.value)
    assert caught.value.kind == "credentials"


async def test_who_is_to_be_acted_as_is_named_in_headers_and_messages(tmp_path: Path) -> None:
    user = {
        "token": "t",
        "as": "jane",
        "as-uid": "7",
        "as-groups": ["developers", "admins"],
        "as-user-extra": {"acme.com/project": ["one", "two"]},
    }
    async with serving() as served:
        path = write(tmp_path, cluster={"server": served.url}, user=user)
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
            await client.request("GET", "/version")
            assert client.cluster.account == "jane (as which ada acts)"
    headers = served.requests[0].headers
    assert {key: headers.getall(key) for key in headers if key.startswith("Impersonate")} == {
        "Impersonate-User": ["jane"],
        "Impersonate-Uid": ["7"],
        "Impersonate-Group": ["developers", "admins"],
        "Impersonate-Extra-Acme.com%2fproject": ["one", "two"],
    }


@pytest.mark.parametrize(
    "user", [{"token": "t"}, {"username": "ada", "password": "s"}, {"tokenFile": "token"}]
)
async def test_credentials_go_over_plain_http_to_this_machine_only(
    tmp_path: Path, user: dict[str, str]
) -> None:
    (tmp_path / "token").write_text("t")
    for server, sent in (
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("https://10.0.0.1:1", True),
        ("http://10.0.0.1:1", False),
        ("http://localhost.example:1", False),
    ):
        path = write(tmp_path, cluster={"server": server}, user=user)
        login = await (await find_cluster([f"kubeconfig={path}"], {})).login()
        assert bool(login.authorization) is sent, server
    # A proxy elsewhere would get what is meant for this machine.
    cluster = {"server": "http://127.0.0.1:1", "proxy-url": "http://proxy.example:3128"}
    path = write(tmp_path, cluster=cluster, user=user)
    assert (await (await find_cluster([f"kubeconfig={path}"], {})).login()).authorization == ""


def test_a_key_with_a_password_is_an_error_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    key = load_pem_private_key(ADA_KEY.encode(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
    ).decode()
    user = {"client-certificate-data": data(ADA), "client-key-data": data(locked)}
    path = write(tmp_path, cluster={"server": "https://127.0.0.1:1"}, user=user)
    # A process with a terminal: there OpenSSL would ask, and hold the event loop until somebody answers.
    ours, theirs = pty.openpty()
    code = f"""
import asyncio, fcntl, termios
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
fcntl.ioctl(0, termios.TIOCSCTTY, 0)

async def main():
    async with KubeClient(lambda: find_cluster(["kubeconfig={path}"], {{}})) as client:
        await client.request("GET", "/version")

asyncio.run(main())
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=theirs,
            capture_output=True,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert "KubeError: the certificates for https://127.0.0.1:1 cannot be used: " in done.stderr


async def test_certificates_without_key_identifiers_are_good_ones(tmp_path: Path) -> None:
    # Those of many clusters are so; Python 3.13 takes them for none, unless it is told otherwise.
    authority, chain, _ = plain_certificates()
    (tmp_path / "server.pem").write_text(chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    async with serving(tls=tls) as served:
        path = write(tmp_path, cluster={"server": served.url, "certificate-authority-data": data(authority)})
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
            assert await client.request("GET", "/version")


async def test_a_certificate_that_is_trusted_need_not_be_the_root(tmp_path: Path) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    server = middle.issue_cert("127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.configure_cert(tls)
    trusted = f"# Größe\n{middle.cert_pem.bytes().decode()}"
    async with serving(tls=tls) as served:
        path = write(tmp_path, cluster={"server": served.url, "certificate-authority-data": data(trusted)})
        async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
            assert await client.request("GET", "/version")
