"""Registry `kubernetes` says why a service is found or not; each broken state names its cause."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.findings import Finding
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.nodes.node import NodeSet
from pymicro.settings.config import load
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.api.certificates import NEW_CA, old_server
from tests.kubernetes.api.logins import data, write
from tests.kubernetes.api.serving import serving
from tests.kubernetes.kube_contract import kubernetes

TYPE = "micro.mu/type"
SELECTOR = "micro.mu/selector-greeter"
RECORD = "micro.mu/service-greeter"
LABELS = {TYPE: "service", SELECTOR: "service"}


def record(address: str, **changes: Any) -> str:
    return json.dumps({"name": "greeter", "nodes": [{"id": "a", "address": address}], **changes})


async def told(registry: KubernetesRegistry, service: str = "greeter") -> list[Finding]:
    return [finding async for finding in registry.diagnose(service)]


async def first(registry: KubernetesRegistry) -> NodeSet:
    async with aclosing(registry.watch("greeter")) as sets:  # type: ignore[type-var]
        return await anext(sets)


def one(findings: list[Finding], check: str) -> Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, findings
    return found[0]


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "problem"]


async def test_a_service_that_is_well_has_no_problems() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, "one") as registry:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        api.create(pod("two", "10.0.0.2", labels=LABELS, annotations={RECORD: record("10.0.0.2:80")}))
        found = await told(registry)
        assert problems(found) == []
        assert [finding.check for finding in found][:2] == ["credentials", "API server"]
        assert "v1.34.2" in one(found, "API server").text
        assert one(found, "pod one").text == "counts: 10.0.0.1:8080 (by its labels)"
        assert one(found, "pod two").text == "counts: 10.0.0.2:80 (by its record)"
        assert found[-1] == Finding("nodes", "ok", "2 nodes of greeter in namespace default")


async def test_a_pod_that_speaks_something_else_is_told_and_not_counted() -> None:
    mucp = [{"id": "a", "address": "10.0.0.2:80", "metadata": {"protocol": "mucp"}}]
    async with FakeKubeApi() as api, kubernetes(api.url, "one") as registry:
        api.create(pod("two", "10.0.0.2", labels=LABELS, annotations={RECORD: record("", nodes=mucp)}))
        found = await told(registry)
        assert one(found, "pod two").level == "problem"
        assert one(found, "pod two").text == (f"does not count: annotation {RECORD} names the protocol mucp")
        assert found[-1].text == "no pod of greeter counts in namespace default"
        assert [node.id for node in await first(registry)] == ["a"], "it is shown all the same"
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        found = await told(registry)
        assert one(found, "pod two").level == "note"
        assert found[-1].text == "1 node of greeter in namespace default"


async def test_without_a_service_no_pods_are_looked_at() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        assert {finding.check for finding in await told(registry, "")} == {
            "credentials",
            "API server",
            "access",
        }
        assert api.count("list") == 0


async def test_no_cluster_is_a_finding_and_the_last(tmp_path: Path) -> None:
    config = load({"registry_address": [f"kubeconfig={tmp_path}/none"]}, environ={})
    async with KubernetesRegistry(config, environ={}) as registry:
        (found,) = await told(registry)
        assert (found.check, found.level) == ("credentials", "problem")
        assert str(tmp_path) in found.text


@pytest.mark.parametrize("in_pod", [False, True])
async def test_a_server_that_is_away_is_a_finding_and_the_last(in_pod: bool) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"} if in_pod else {}
    async with FakeKubeApi() as api:
        config = load({"registry_address": [api.url]}, environ={})
        await api.stop()
        async with KubernetesRegistry(config, environ=environ) as registry:
            found = (await told(registry))[-1]
    assert (found.check, found.level) == ("API server", "problem")
    assert api.url in found.text
    assert "address" in found.fix
    # What a policy drops is sent by pods.
    assert ("NetworkPolicy" in found.fix) is in_pod


@pytest.mark.parametrize(
    ("cluster", "user", "check", "said", "fix"),
    [
        (
            {"certificate-authority-data": data(NEW_CA)},
            {},
            "API server",
            "CERTIFICATE_VERIFY",
            "this cluster's",
        ),
        ({}, {"tokenFile": "gone"}, "credentials", "tokenFile, which cannot be read", ""),
        ({}, {"client-certificate-data": data("x")}, "credentials", "without a client-key", ""),
        ({"proxy-url": "http://127.0.0.1:1"}, {}, "API server", "proxy cannot be reached", "proxy-url"),
    ],
)
async def test_what_no_network_policy_can_cause_has_no_hint_about_one(
    tmp_path: Path, cluster: dict[str, str], user: dict[str, str], check: str, said: str, fix: str
) -> None:
    async with serving(tls=old_server(tmp_path)) as served:
        path = write(tmp_path, cluster={"server": served.url, **cluster}, user=user)
        config = load({"registry_address": [f"kubeconfig={path}"]}, environ={})
        async with KubernetesRegistry(config, environ={"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) as registry:
            found = (await told(registry))[-1]
    assert (found.check, found.level) == (check, "problem")
    assert said in found.text
    assert "NetworkPolicy" not in found.fix
    assert fix in found.fix


async def test_credentials_that_are_refused_are_a_finding() -> None:
    async with FakeKubeApi(tokens={}) as api, kubernetes(api.url) as registry:
        found = (await told(registry))[-1]
        assert (found.check, found.level) == ("API server", "problem")
        assert "credentials" in found.fix


# Rights


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_each_missing_right_comes_with_the_rule_to_add(verb: str) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, namespace="shop") as registry:
        api.forbid(verb)
        (found,) = problems(await told(registry))
        assert found.check == "access"
        assert f"{verb} pods in namespace shop" in found.text
        assert f'verbs: ["{verb}"]' in found.fix
        assert api.count("list") == 0, "what may not be done is not tried"


async def test_rights_are_asked_for_in_every_namespace() -> None:
    async with FakeKubeApi() as api:
        api.forbid("list", namespace="b")
        async with kubernetes(api.url, registry_namespace="a,b") as registry:
            (found,) = problems(await told(registry))
            assert "in namespace b" in found.text
        api.forbid("watch")
        async with kubernetes(api.url, registry_namespace="*") as registry:
            (found,) = problems(await told(registry))
            assert "in all namespaces" in found.text
            assert "ClusterRole" in found.fix


@pytest.mark.parametrize(
    ("mode", "name", "level"),
    [("patch", "one", "problem"), ("auto", "one", "note"), ("labels", "one", ""), ("patch", "", "")],
)
async def test_patch_is_asked_for_only_where_it_is_needed(mode: str, name: str, level: str) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, name, registry_advertise=mode) as registry:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        api.forbid("patch")
        found = [finding for finding in await told(registry) if "patch" in finding.text]
        assert [finding.level for finding in found] == ([level] if level else [])
        assert all('verbs: ["patch"]' in finding.fix for finding in found)


# Pods


@pytest.mark.parametrize(
    ("state", "text", "fix"),
    [
        ({"ready": False}, "not ready", "describe pod one"),
        (
            {"ports": {"http": 8080}},
            "no port of its containers is named grpc (there are http 8080)",
            "name: grpc",
        ),
        ({"annotations": {RECORD: "{"}}, f"annotation {RECORD}: ", f"{RECORD}-"),
        (
            {"annotations": {RECORD: record("10.0.0.9:80")}},
            "'10.0.0.9:80', which the pod does not have",
            "POD_IP",
        ),
        (
            {"annotations": {RECORD: record("10.0.0.1:80", name="Greeter")}},
            "of a service 'Greeter'",
            "another name",
        ),
        ({"ip": ""}, "no address yet", ""),
    ],
)
async def test_a_pod_that_does_not_count_says_why_and_what_to_do(
    state: dict[str, Any], text: str, fix: str
) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(pod("one", **{"ip": "10.0.0.1", **state}, labels=LABELS))
        found = await told(registry)
        about = one(found, "pod one")
        assert about.level == "problem"
        assert text in about.text
        assert fix in about.fix
        assert found[-1] == Finding("nodes", "problem", "no pod of greeter counts in namespace default")


async def test_what_passes_by_itself_is_no_problem_while_others_count() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(pod("good", "10.0.0.1", labels=LABELS))
        api.create(pod("starting", "10.0.0.2", labels=LABELS, ready=False))
        api.create(pod("leaving", "10.0.0.3", labels=LABELS, terminating=True))
        found = await told(registry)
        assert problems(found) == []
        assert one(found, "pod starting").level == one(found, "pod leaving").level == "note"
        api.create(pod("bad", "10.0.0.4", labels=LABELS, annotations={RECORD: "{"}))
        assert [finding.check for finding in problems(await told(registry))] == ["pod bad"]


@pytest.mark.parametrize("state", [{"terminating": True}, {"phase": "Failed"}])
async def test_only_pods_on_their_way_out_are_no_fault_of_theirs(state: dict[str, Any]) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(pod("one", "10.0.0.1", labels=LABELS, **state))
        found = await told(registry)
        assert one(found, "pod one").level == "note"
        assert [finding.check for finding in problems(found)] == ["nodes"]
        if "terminating" in state:
            assert (
                one(found, "pod one").text == "counts for want of others: 10.0.0.1:8080, it is being deleted"
            )
            text = "1 node of greeter in namespace default, being deleted: no other counts"
            assert one(found, "nodes").text == text


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [
        ({"app": "greeter"}, {}),
        ({"app.kubernetes.io/name": "greeter"}, {}),
        ({"app": "greeter", "app.kubernetes.io/name": "greeter", TYPE: "service"}, {}),
        ({TYPE: "service"}, {RECORD: record("10.0.0.1:80")}),
    ],
)
async def test_a_pod_that_lacks_the_label_is_found_by_what_else_it_has(
    labels: dict[str, str], annotations: dict[str, str]
) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(pod("one", "10.0.0.1", labels=labels, annotations=annotations))
        api.create(pod("other", "10.0.0.2", labels={"app": "front", TYPE: "service"}))
        api.create(pod("gone", "10.0.0.3", labels=labels, annotations=annotations, phase="Succeeded"))
        found = await told(registry)
        about = one(found, "pod one")
        assert about.level == "problem"
        assert about.text.startswith("label missing")
        assert f"{SELECTOR}: service" in about.fix
        assert not [finding for finding in found if finding.check in ("pod other", "pod gone")]


async def test_a_service_nobody_runs_says_which_label_was_looked_for() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        found = (await told(registry, "a b"))[-1]
        assert found.level == "problem"
        assert "no pod in namespace default carries the label micro.mu/selector-a_b: service" in found.text
        assert "--registry-namespace" in found.fix


async def test_a_pod_that_is_not_listed_is_said_to_lack_the_type() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(pod("one", "10.0.0.1", labels={SELECTOR: "service"}))
        about = one(await told(registry), "pod one")
        assert about.level == "note"
        assert f"lacks {TYPE}: service" in about.text


async def test_a_name_that_is_no_label_is_said() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        found = (await told(registry, "greeter_"))[-1]
        assert (found.check, found.level) == ("name", "problem")
        assert "letter or digit" in found.text


async def test_pods_are_listed_to_a_bound_and_those_that_do_not_count_first() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        for number in range(40):
            api.create(pod(f"pod-{number:02}", f"10.0.0.{number}", labels=LABELS, ready=number != 39))
        found = await told(registry)
        assert next(finding.check for finding in found if finding.check.startswith("pod ")) == "pod pod-39"
        assert one(found, "pods").text == "and 10 more pods with the label"
        assert found[-1].text == "39 nodes of greeter in namespace default"


async def test_pods_of_several_namespaces_are_told_apart() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="*") as registry:
        api.create(pod("one", "10.0.0.1", labels=LABELS, namespace="a"))
        api.create(pod("one", "10.0.0.2", labels=LABELS, namespace="b"))
        found = await told(registry)
        assert one(found, "pod a/one").text.startswith("counts: 10.0.0.1")
        assert one(found, "pod b/one").text.startswith("counts: 10.0.0.2")


async def test_a_server_that_fails_while_pods_are_listed_is_a_finding() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.refuse(500, verb="list")
        found = (await told(registry))[-1]
        assert (found.check, found.level) == ("pods", "problem")


async def test_two_ports_named_grpc_are_a_problem_of_a_pod_of_two_services() -> None:
    labels = {"micro.mu/type": "service", "micro.mu/selector-greeter": "service"}
    async with FakeKubeApi() as api:
        for name, more in (("one", {}), ("two", {"micro.mu/selector-front": "service"})):
            twice = pod(name, f"10.0.0.{len(more) + 1}", labels={**labels, **more})
            second = {"name": "front", "image": "x", "ports": [{"name": "grpc", "containerPort": 9090}]}
            twice["spec"]["containers"].append(second)
            api.create(twice)
        async with kubernetes(api.url) as registry:
            found = {one.check: one async for one in registry.diagnose("greeter")}
    assert (found["pod one"].level, found["pod two"].level) == ("note", "problem")
    assert "counts: 10.0.0.2:8080" in found["pod two"].text
    assert "micro.mu/port-greeter" in found["pod two"].fix
