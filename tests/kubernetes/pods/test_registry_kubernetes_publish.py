"""Registry `kubernetes` as a writer: labels, patches, what is mended and what is taken back."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.kubernetes.pods.own_pod import own_address, own_pod
from pymicro.nodes.node import Endpoint, Node, Value
from pymicro.nodes.record import load_record
from pymicro.settings.config import load
from pymicro.testing.waiting import expect
from tests.fakes.kube_api import FakeKubeApi, Request
from tests.fakes.pods import pod
from tests.kubernetes.kube_contract import QUICK, kubernetes

TYPE = "micro.mu/type"
SELECTOR = "micro.mu/selector-greeter"
RECORD = "micro.mu/service-greeter"
LABELS = {TYPE: "service", SELECTOR: "service"}
IP = "10.0.0.1"

NODE = Node(
    "greeter-1",
    f"{IP}:8080",
    "greeter",
    "1.0",
    {"protocol": "grpc"},
    (Endpoint("Greeter.SayHello", Value("HelloRequest", "HelloRequest", (Value("name", "string"),)), None),),
)


def node(service: str = "greeter", number: int = 1, port: int = 8080) -> Node:
    return Node(f"{service}-{number}", f"{IP}:{port}", service, "1", {"protocol": "grpc"})


def own(url: str, **settings: Any) -> KubernetesRegistry:
    return kubernetes(url, "mine", ip=IP, **settings)


def labels(api: FakeKubeApi) -> dict[str, str]:
    return api.get("mine")["metadata"].get("labels", {})


def annotations(api: FakeKubeApi) -> dict[str, str]:
    return api.get("mine")["metadata"].get("annotations", {})


def patches(api: FakeKubeApi) -> list[Request]:
    return [one for one in api.requests if one.verb == "patch"]


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


# Patches


async def test_a_patch_is_go_micros() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels={"app": "x"}, annotations={"other": "y"}))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            (request,) = patches(api)
            assert request.path == "/api/v1/namespaces/default/pods/mine"
            assert request.headers["Content-Type"] == "application/strategic-merge-patch+json"
            text = request.body["metadata"]["annotations"][RECORD]
            assert request.body == {"metadata": {"labels": LABELS, "annotations": {RECORD: text}}}
            assert load_record(text).nodes == (NODE,)
            assert labels(api) == {"app": "x", **LABELS}
            version = api.get("mine")["metadata"]["resourceVersion"]
            await registry.deregister(NODE)
            # Only as long as the pod is as it was looked at: the record is then our own.
            assert patches(api)[1].body == {
                "metadata": {
                    "labels": {SELECTOR: None},
                    "annotations": {RECORD: None},
                    "resourceVersion": version,
                }
            }
            assert labels(api) == {"app": "x", TYPE: "service"}
            assert annotations(api) == {"other": "y"}


async def test_several_services_on_a_pod_survive_each_other() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as one, own(api.url) as two:
            await one.register(node("greeter", port=1))
            await two.register(node("front", port=2))
            assert {RECORD, "micro.mu/service-front"} <= set(annotations(api))
            await one.deregister(node("greeter", port=1))
            assert set(annotations(api)) == {"micro.mu/service-front"}
            sets = one.watch("front")
            await expect(sets, [node("front", port=2)], within=5)
            await sets.aclose()
        assert annotations(api) == {}


async def test_deregistering_leaves_what_a_successor_on_the_pod_has_written() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with (
            own(api.url, registry_advertise="patch") as old,
            own(api.url, registry_advertise="patch") as new,
        ):
            await old.register(node(number=1))
            # A restarted container has another id, and the same port or another one.
            await new.register(node(number=2))
            await old.deregister(node(number=1))
            assert [one.id for one in load_record(annotations(api)[RECORD]).nodes] == ["greeter-2"]
            assert labels(api) == LABELS
            await new.deregister(node(number=2))
            assert annotations(api) == {}


async def test_a_pod_that_changes_while_a_record_is_removed_is_looked_at_again() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            changes = iter(range(2))

            def meddle(request: Request) -> None:
                if request.verb == "patch" and next(changes, None) is not None:
                    api.patch("mine", {"metadata": {"labels": {"changed": str(len(api.requests))}}})

            api.on_request(meddle)
            await registry.deregister(NODE)
            assert annotations(api) == {}
            assert [one.status for one in patches(api)[1:]] == [409, 409, 200]


async def test_a_successor_that_comes_while_a_record_is_removed_keeps_its_own() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(node(number=1))
            theirs = annotations(api)[RECORD].replace("greeter-1", "greeter-2")

            def meddle(request: Request) -> None:
                if request.verb == "patch":
                    api.patch("mine", {"metadata": {"annotations": {RECORD: theirs}}})

            api.on_request(meddle)
            await registry.deregister(node(number=1))
            assert annotations(api)[RECORD] == theirs


async def test_a_refused_sweep_is_no_failed_registration(caplog: pytest.LogCaptureFixture) -> None:
    left = json.dumps({"name": "old", "version": "1", "nodes": [{"id": "old", "address": f"{IP}:8080"}]})
    caplog.set_level(logging.INFO)
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, annotations={"micro.mu/service-old": left}))

        def only_one(request: Request) -> None:
            if len(patches(api)) == 2:
                api.forbid("patch")

        api.on_request(only_one)
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            assert load_record(annotations(api)[RECORD]).nodes == (NODE,)
            assert said(caplog, "what an earlier process has left on pod mine stays there") == 1
            api.on_request(None)
            api.allow("patch")


async def test_a_renewal_asks_and_writes_only_what_somebody_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            await registry.register(NODE)
            assert len(patches(api)) == 1
            mended = annotations(api)[RECORD]
            damages: list[dict[str, Any]] = [
                {"labels": {SELECTOR: None}},
                {"labels": {TYPE: "else"}},
                {"annotations": {RECORD: None}},
                {"annotations": {RECORD: mended.replace("8080", "8081")}},
            ]
            for count, damage in enumerate(damages, 2):
                api.patch("mine", {"metadata": damage})
                await registry.register(NODE)
                assert len(patches(api)) == count
                assert annotations(api)[RECORD] == mended
                assert labels(api) == LABELS
            assert said(caplog, "mending") == len(damages)


async def test_who_may_patch_and_not_list_writes_at_each_renewal() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        api.forbid("list")
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            await registry.register(NODE)
            assert len(patches(api)) == 2


async def test_a_node_that_moves_replaces_its_record() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(node(port=1))
            await registry.register(node(port=2))
            assert [one.address for one in load_record(annotations(api)[RECORD]).nodes] == [f"{IP}:2"]


async def test_two_nodes_of_a_service_share_a_record() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(node(number=1, port=1))
            await registry.register(node(number=2, port=2))
            await registry.deregister(node(number=1, port=1))
            assert [one.id for one in load_record(annotations(api)[RECORD]).nodes] == ["greeter-2"]


async def test_what_an_earlier_process_of_the_pod_left_is_removed() -> None:
    def record(service: str, *addresses: str) -> str:
        nodes = [{"id": "old", "address": address} for address in addresses]
        return json.dumps({"name": service, "version": "1", "nodes": nodes})

    left = {
        "micro.mu/service-greeter": record("greeter", f"{IP}:8080"),
        "micro.mu/service-old": record("old", f"{IP}:8080"),
        "micro.mu/service-a_b": record("a b", f"{IP}:8080"),
        "micro.mu/service-sidecar": record("sidecar", f"{IP}:9090"),
        "micro.mu/service-mixed": record("mixed", f"{IP}:8080", f"{IP}:9090"),
        "micro.mu/service-bad": "{",
    }
    selectors = {key.replace("/service-", "/selector-"): "service" for key in left}
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels={TYPE: "service", **selectors}, annotations=left))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            kept = {"greeter", "sidecar", "mixed", "bad"}
            assert {key.partition("service-")[2] for key in annotations(api)} == kept
            assert {key.partition("selector-")[2] for key in labels(api) if "selector" in key} == kept
            assert load_record(annotations(api)[RECORD]).nodes == (NODE,)
            # A second name at the same address is ours and stays.
            await registry.register(node("front"))
            assert RECORD in annotations(api)


async def test_leaving_takes_back_what_was_not_deregistered() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(node("greeter", port=1))
            await registry.register(node("front", port=2))
        assert annotations(api) == {}


async def test_leaving_while_the_server_is_away_takes_no_more_than_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            await api.stop()
        assert said(caplog, "could not all be taken back") == 1


async def test_deregistering_on_a_pod_that_is_gone_is_no_error() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            await registry.register(NODE)
            api.delete("mine")
            await registry.deregister(NODE)


async def test_a_missing_right_to_patch_is_told_with_the_rule() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        api.forbid("patch")
        async with own(api.url, registry_advertise="patch") as registry:
            with pytest.raises(RegistryError) as caught:
                await registry.register(NODE)
            assert 'verbs: ["patch"]' in str(caught.value)
            assert str(caught.value).endswith("`pymicro doctor greeter` says more")
            # Nothing was written, so nothing is to be taken back.
            await registry.deregister(NODE)
            assert len(patches(api)) == 1
            api.allow("patch")
            await registry.register(NODE)
            assert RECORD in annotations(api)


@pytest.mark.parametrize("lost", ["the request", "the answer"])
async def test_what_may_have_been_written_is_taken_back(lost: str) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url, registry_advertise="patch") as registry:
            gate = api.hold(verb="patch")
            task = asyncio.create_task(registry.register(NODE))
            await api.until(lambda: gate.waiting == 1, "the patch is under way")
            if lost == "the request":
                await api.stop()
                with pytest.raises(RegistryError):
                    await task
                await api.start()
            else:
                task.cancel()
                await asyncio.wait([task])
                api.patch("mine", {"metadata": {"labels": LABELS, "annotations": {RECORD: "{}"}}})
            gate.open()
            await registry.deregister(NODE)
            assert annotations(api) == {}
            assert patches(api)[-1].body["metadata"]["annotations"] == {RECORD: None}


async def test_what_the_server_finds_invalid_ends_a_start() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        api.refuse(422, verb="patch", reason="Invalid", message="denied by policy: own pod only")
        async with own(api.url, registry_advertise="patch") as registry:
            with pytest.raises(ConfigError, match=r"own pod only.*doctor greeter"):
                await registry.register(NODE)


# Labels


async def test_labels_ask_once_and_write_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels=LABELS))
        async with own(api.url, registry_advertise="labels") as registry:
            for _ in range(3):
                await registry.register(NODE)
            await registry.deregister(NODE)
        assert [one.verb for one in api.requests] == ["list"]
        assert api.requests[0].query["fieldSelector"] == "metadata.name=mine"
        assert said(caplog, "found by the labels of pod mine") == 1


@pytest.mark.parametrize(
    ("given", "ports", "wanted"),
    [
        ({TYPE: "service"}, {"grpc": 8080}, f"lacks the label {SELECTOR}: service"),
        ({SELECTOR: "service"}, {"grpc": 8080}, f"lacks the label {TYPE}: service"),
        (LABELS, {"http": 8080}, "no container port of pod mine is named grpc"),
        (LABELS, {"grpc": 9090}, "is 9090, and greeter listens on 8080"),
    ],
)
async def test_a_template_that_says_something_else_ends_a_start(
    given: dict[str, str], ports: dict[str, int], wanted: str
) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels=given, ports=ports))
        async with own(api.url, registry_advertise="labels") as registry:
            with pytest.raises(ConfigError) as caught:
                await registry.register(NODE)
            assert wanted in str(caught.value)
            assert str(caught.value).endswith(": `pymicro doctor greeter` says more")
            # The service runs on with another plug-in's patience: no ConfigError later.
            with pytest.raises(RegistryError):
                await registry.register(NODE)


@pytest.mark.parametrize("mode", ["labels", "auto"])
async def test_labels_that_may_not_be_looked_at_are_believed(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        api.forbid("list")
        async with own(api.url, registry_advertise=mode) as registry:
            for _ in range(3):
                await registry.register(NODE)
        assert len(api.requests) == 1
        assert said(caplog, "pods may not be listed") == 1


async def test_labels_are_checked_later_if_the_server_is_away_at_the_start() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels=LABELS, ports={"grpc": 1}))
        refusal = api.refuse(503)
        async with own(api.url, registry_advertise="labels") as registry:
            await registry.register(NODE)  # found all the same, as far as it knows
            refusal.end()
            with pytest.raises(RegistryError, match="listens on 8080"):
                await registry.register(NODE)


@pytest.mark.parametrize("mode", ["labels", "auto"])
async def test_labels_need_no_credentials(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = load(
        {"registry_address": [f"kubeconfig={tmp_path}/none"], "registry_advertise": mode}, environ={}
    )
    async with KubernetesRegistry(config, environ={"POD_NAME": "mine"}, timing=QUICK) as registry:
        await registry.register(NODE)
        await registry.deregister(NODE)
    assert said(caplog, str(tmp_path)) == 1


# Auto


@pytest.mark.parametrize(
    ("given", "record", "patched"),
    [
        ({}, None, True),
        ({TYPE: "service"}, None, True),
        (LABELS, None, False),
        # What an earlier process of this pod has left looks like a label of the template.
        (LABELS, json.dumps({"name": "greeter", "nodes": []}), True),
    ],
)
async def test_auto_patches_unless_the_template_has_the_labels(
    given: dict[str, str], record: str | None, patched: bool
) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP, labels=given, annotations={RECORD: record} if record else None))
        async with own(api.url) as registry:
            await registry.register(NODE)
            assert bool(patches(api)) is patched
            await registry.register(NODE)
            assert len(patches(api)) == patched


async def test_auto_stays_with_what_it_chose() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url) as registry:
            await registry.register(NODE)
            api.patch("mine", {"metadata": {"annotations": {RECORD: None}}})
            await registry.register(NODE)
            assert RECORD in annotations(api)


# None


async def test_none_asks_nobody_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeKubeApi() as api:
        async with kubernetes(api.url, registry_advertise="none") as registry:
            for _ in range(3):
                await registry.register(Node("x", "127.0.0.1:1", "any name_"))
            await registry.deregister(Node("x", "127.0.0.1:1", "any name_"))
        assert api.requests == []
        assert said(caplog, "not published") == 1


# What can never be published


@pytest.mark.parametrize(
    ("bad", "wanted"),
    [
        (Node("x", f"{IP}:1", "greeter_"), "letter or digit"),
        (Node("x", f"{IP}:1", "x" * 55), "54"),
        (Node("x", "127.0.0.1:1", "greeter"), "127.0.0.1:1, which nobody else can reach"),
        (Node("x", "[::1]:1", "greeter"), "nobody else can reach"),
        (Node("x", "0.0.0.0:1", "greeter"), "nobody else can reach"),
        (Node("x", "localhost:1", "greeter"), "only a pod's own IP counts"),
        (Node("x", "10.0.0.9:1", "greeter"), f"no address of pod mine ({IP})"),
        (Node("x", f"{IP}:1", "greeter", "\ud800"), "unicode"),
    ],
)
async def test_what_can_never_be_published_ends_a_start(bad: Node, wanted: str) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url) as registry:
            with pytest.raises(ConfigError) as caught:
                await registry.register(bad)
            assert wanted in str(caught.value)
            assert "pymicro doctor" in str(caught.value)


async def test_two_names_that_are_the_same_label_do_not_fit_on_a_pod() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("mine", IP))
        async with own(api.url) as registry:
            await registry.register(node("a b"))
            with pytest.raises(ConfigError, match="the same as labels"):
                await registry.register(node("a_b"))
            assert load_record(annotations(api)["micro.mu/service-a_b"]).service == "a b"


async def test_outside_a_pod_nothing_can_be_registered_but_everything_read() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("one", IP, labels=LABELS, uid="u"))
        async with kubernetes(api.url) as registry:
            with pytest.raises(ConfigError, match="--registry-advertise none"):
                await registry.register(NODE)
            sets = registry.watch("greeter")
            await expect(sets, [Node("u", f"{IP}:8080", "greeter", "", {"protocol": "grpc"})], within=5)
            await sets.aclose()


@pytest.mark.parametrize("mode", ["auto", "patch", "labels"])
async def test_a_pod_name_that_is_none_says_where_the_right_one_comes_from(mode: str) -> None:
    async with FakeKubeApi() as api, own(api.url, registry_advertise=mode) as registry:
        with pytest.raises(ConfigError, match=r"no pod mine in namespace default.*POD_NAME"):
            await registry.register(NODE)


# The environment


def test_the_pods_name_is_the_downward_apis_else_the_hosts() -> None:
    assert own_pod({"POD_NAME": "a", "HOSTNAME": "b"}) == "a"
    assert own_pod({"HOSTNAME": "b", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}) == "b"
    assert own_pod({"HOSTNAME": "laptop"}) == ""


def test_the_pods_address_is_the_downward_apis_else_the_route_to_the_server() -> None:
    assert own_address({"POD_IP": "fd00::1"}) == "fd00::1"
    assert own_address({"KUBERNETES_SERVICE_HOST": "127.0.0.1"}) == "127.0.0.1"
    assert own_address({"KUBERNETES_SERVICE_HOST": "::1"}) == "::1"
    assert own_address({})
