"""`pymicro doctor` on the way to the API server: proxies, certificates, whom to act as, cut watches."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from aiohttp import web

from pymicro.base.findings import Finding
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.settings.config import load
from tests.fakes.kube_api import FakeKubeApi
from tests.kubernetes.api.certificates import OLD_CA, old_server, plain_certificates
from tests.kubernetes.api.logins import data, write
from tests.kubernetes.api.serving import serving
from tests.kubernetes.hop import hop
from tests.kubernetes.kube_contract import kubernetes


async def told(registry: KubernetesRegistry, service: str = "") -> list[Finding]:
    async with registry:
        return [finding async for finding in registry.diagnose(service)]


def outside(path: str, **environ: str) -> KubernetesRegistry:
    """A registry as on somebody's laptop."""
    return KubernetesRegistry(load({"registry_address": [f"kubeconfig={path}"]}, environ={}), environ=environ)


async def server(request: web.BaseRequest) -> web.StreamResponse:
    """Tells its version, and allows everything."""
    if request.path == "/version":
        return web.json_response({"gitVersion": "v1.34.2"})
    return web.json_response({"status": {"allowed": True}}, status=201)


# Proxies


async def test_a_proxy_is_named_with_who_names_it(tmp_path: Path) -> None:
    name = "https://kubernetes.default.svc:6443"
    async with serving(server, tls=old_server(tmp_path)) as served, hop(served.url, proxy=True) as proxy:
        with_password = proxy.replace("http://", "http://ada:secret@")
        cluster = {"server": name, "certificate-authority-data": data(OLD_CA)}
        by_environment = await told(outside(write(tmp_path, cluster=cluster), HTTPS_PROXY=with_password))
        cluster["proxy-url"] = with_password
        by_kubeconfig = await told(
            outside(write(tmp_path, cluster=cluster), HTTPS_PROXY="http://127.0.0.1:1")
        )
    for found, named in ((by_environment, "HTTPS_PROXY"), (by_kubeconfig, "`proxy-url` of the kubeconfig")):
        assert found[1] == Finding(
            "proxy", "note", f"{name} is asked through the proxy {proxy}, which {named} names"
        )
        assert found[2].text == f"{name} through the proxy {proxy} answers (v1.34.2)"
        assert "secret" not in str(found)


# Certificates


@pytest.mark.parametrize("proxied", [False, True])
async def test_a_certificate_that_newer_pythons_refuse_is_noted_and_taken(
    tmp_path: Path, proxied: bool
) -> None:
    authority, chain, _ = plain_certificates()
    (tmp_path / "server.pem").write_text(chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    async with serving(server, tls=tls) as served, hop(served.url, proxy=True) as proxy:
        cluster = {"server": served.url, "certificate-authority-data": data(authority)}
        if proxied:
            cluster["proxy-url"] = proxy
        found = await told(outside(write(tmp_path, cluster=cluster, user={"token": "t"})))
        (finding,) = (one for one in found if one.check == "certificate")
    assert finding.level == "note"
    assert "Missing Authority Key Identifier" in finding.text
    assert "key identifiers" in finding.fix
    assert [one.level for one in found if one.check == "API server"] == ["ok"]


async def test_a_server_whose_certificate_is_not_checked_is_noted(tmp_path: Path) -> None:
    async with serving(server, tls=old_server(tmp_path)) as served:
        cluster = {"server": served.url, "insecure-skip-tls-verify": True}
        found = await told(outside(write(tmp_path, cluster=cluster, user={"token": "t"})))
    (finding,) = (one for one in found if one.check == "certificate")
    assert finding.level == "note"
    assert "is not checked (insecure-skip-tls-verify)" in finding.text


async def test_a_certificate_as_it_should_be_is_not_spoken_of(tmp_path: Path) -> None:
    async with serving(server, tls=old_server(tmp_path)) as served:
        cluster = {"server": served.url, "certificate-authority-data": data(OLD_CA)}
        found = await told(outside(write(tmp_path, cluster=cluster, user={"token": "t"})))
    assert {finding.level for finding in found} == {"ok"}
    # The look at the certificate brings no credentials along.
    assert "" in served.tokens


# Rights


async def test_who_may_not_act_as_somebody_is_told_the_rule_and_nothing_else(tmp_path: Path) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        message = 'users "jane" is forbidden: User "ada" cannot impersonate resource "users" in API group ""'
        return web.json_response({"reason": "Forbidden", "message": message, "code": 403}, status=403)

    async with serving(refuse) as served:
        user = {
            "token": "t",
            "as": "system:serviceaccount:shop:greeter",
            "as-uid": "7",
            "as-groups": ["a", "b"],
            "as-user-extra": {"acme.com/project": ["x"]},
        }
        found = await told(outside(write(tmp_path, cluster={"server": served.url}, user=user)))
    assert [(one.check, one.level) for one in found] == [("credentials", "ok"), ("as", "problem")]
    assert "does not let this account act as another one: 403 Forbidden: users" in found[-1].text
    assert found[-1].fix.splitlines()[1:] == [
        '- apiGroups: [""]',
        '  resources: ["serviceaccounts"]',
        '  resourceNames: ["greeter"]',
        '  verbs: ["impersonate"]',
        '- apiGroups: ["authentication.k8s.io"]',
        '  resources: ["uids"]',
        '  resourceNames: ["7"]',
        '  verbs: ["impersonate"]',
        '- apiGroups: [""]',
        '  resources: ["groups"]',
        '  resourceNames: ["a", "b"]',
        '  verbs: ["impersonate"]',
        '- apiGroups: ["authentication.k8s.io"]',
        '  resources: ["userextras/acme.com%2fproject"]',
        '  resourceNames: ["x"]',
        '  verbs: ["impersonate"]',
    ]


async def test_rights_that_cannot_be_asked_for_are_tried() -> None:
    async def review_nothing(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1.34.2"})
        message = "nobody may create that, and nobody may list"
        return web.json_response({"reason": "Forbidden", "message": message}, status=403)

    async with serving(review_nothing) as served:
        listing, watching = (await told(kubernetes(served.url)))[-2:]
    assert (listing.check, listing.level) == ("access", "problem")
    assert 'verbs: ["list", "watch"]' in listing.text
    assert (watching.check, watching.level) == ("access", "note")


# Watches


@pytest.mark.parametrize(
    ("cuts", "seconds", "level", "words"),
    [
        (
            0.0,
            0.5,
            "ok",
            "one of pods in namespace default with micro.mu/selector-greeter=service stood for 500ms",
        ),
        (1.3, 20.0, "note", "clients watch on at once"),
        (0.2, 20.0, "problem", "clients hardly see a change"),
    ],
)
async def test_a_watch_that_something_cuts_is_found(
    cuts: float, seconds: float, level: str, words: str
) -> None:
    async with (
        FakeKubeApi() as api,
        hop(api.url, cuts=cuts) as url,
        kubernetes(url) as registry,
    ):
        (found,) = [finding async for finding in registry.endure("greeter", seconds)]
    assert (found.check, found.level) == ("watch", level)
    assert words in found.text
    if level != "ok":
        assert f"was cut after {cuts:.1f}"[:-1] in found.text
        assert "idle timeout" in found.fix


async def test_watches_are_held_in_each_namespace_and_also_of_nothing_in_particular() -> None:
    async with FakeKubeApi() as api:
        for service in ("", "greeter"):
            async with kubernetes(api.url, registry_namespace="a,b") as registry:
                found = [finding async for finding in registry.endure(service, 0.3)]
            assert [finding.level for finding in found] == ["ok", "ok"]
            for name, finding in zip("ab", found, strict=True):
                assert f"in namespace {name}" in finding.text


async def test_a_watch_that_cannot_begin_is_a_problem() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.forbid("watch")
        (found,) = [finding async for finding in registry.endure("greeter", 5.0)]
        assert found.level == "problem"
        api.forbid("list")
        (found,) = [finding async for finding in registry.endure("greeter", 5.0)]
        assert found.level == "problem"
        assert 'verbs: ["list", "watch"]' in found.text
