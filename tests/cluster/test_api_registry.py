"""Registry `kubernetes` on a real API server: rights, publishing, namespaces, outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.errors import RegistryError
from pymicro.kubernetes.api.timing import ReflectorTiming
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cluster import pods
from tests.cluster.api import Refused
from tests.cluster.plane import ControlPlane, until
from tests.cluster.seeing import seeing
from tests.fakes.pods import pod
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

QUICK = ReflectorTiming(backoff_maximum=2.0)
READER = "pymicro-client"
SELF = "greeter"


class Tenant:
    """A namespace, and registries for its accounts."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.plane = plane
        self.namespace = namespace
        self._folder = folder

    def kubeconfig(self, account: str, own: dict[str, Any] | None = None) -> str:
        """For a service account; its token is bound to the pod `own` if given."""
        token = self.plane.token_for(self.namespace, account, pod=own)
        path = self._folder / f"{account}.{time.monotonic_ns()}"
        return self.plane.kubeconfig_for(path, {"token": token}, name=account, namespace=self.namespace)

    def registry(
        self,
        account: str = READER,
        own: dict[str, Any] | None = None,
        *,
        timing: ReflectorTiming = QUICK,
        **settings: Any,
    ) -> KubernetesRegistry:
        """As a process of the pod `own` has it, or one outside of all pods."""
        address = [f"kubeconfig={self.kubeconfig(account, own)}"]
        environ = {}
        if own is not None:
            environ = {
                "POD_NAME": own["metadata"]["name"],
                "POD_NAMESPACE": own["metadata"]["namespace"],
                "POD_IP": own["status"]["podIP"],
            }
        config = load({"registry_address": address, **settings}, environ={})
        return KubernetesRegistry(config, environ=environ, timing=timing)

    def pod(self, name: str, ip: str, namespace: str = "", **metadata: Any) -> dict[str, Any]:
        """A pod that is found by its labels."""
        document = pod(
            name, ip, namespace=namespace or self.namespace, **{"labels": pods.SERVICE, **metadata}
        )
        return pods.create(self.plane.api, document)

    def apply(self, folder: str) -> None:
        """Apply `deploy/FOLDER` as it is."""
        self.plane.kubectl("-n", self.namespace, "apply", "-k", str(ROOT / "deploy" / folder))


@pytest.fixture
def tenant(plane: ControlPlane, namespace: str, tmp_path: Path) -> Tenant:
    return Tenant(plane, namespace, tmp_path)


# Rights


async def test_with_deploy_rbac_a_client_finds_pods_and_can_change_none(tenant: Tenant) -> None:
    tenant.apply("rbac")
    one = tenant.pod("one", "10.0.0.1")
    async with seeing(tenant.registry()) as seen:
        await seen.see("10.0.0.1:8080")
    client = tenant.plane.api.as_token(tenant.plane.token_for(tenant.namespace, READER))
    change = {"metadata": {"labels": {"x": "1"}}}
    for refused in (
        lambda: client.patch(pods.path(one), change),
        lambda: client.put(pods.path(one), one),
        lambda: client.delete(pods.path(one)),
        # Reading is list and watch, as little as a watch can do with.
        lambda: client.get(pods.path(one)),
    ):
        with pytest.raises(Refused) as caught:
            refused()
        assert caught.value.status == 403


async def test_without_rights_the_rule_is_named_and_given_it_heals_by_itself(
    tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    tenant.pod("one", "10.0.0.1")
    async with seeing(tenant.registry("default")) as seen:
        await until("it is refused", lambda: bool(seen.error), 10.0)
        assert seen.addresses is None
        said = seen.error
        assert f"default may not watch pods in namespace {tenant.namespace} at {tenant.plane.url}" in said
        assert '- apiGroups: [""]\n  resources: ["pods"]\n  verbs: ["list", "watch"]' in said
        assert said.endswith("`pymicro doctor greeter` says more")
        loud = [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
        assert loud
        for record in loud:
            # A rule that stands on lines of its own can be pasted.
            assert '  verbs: ["list", "watch"]' in record.getMessage().splitlines()
        await asyncio.to_thread(
            tenant.plane.allow, tenant.namespace, "default", verbs="list,watch", resource="pods"
        )
        await seen.see("10.0.0.1:8080")


async def test_rights_that_are_taken_away_leave_the_last_nodes(tenant: Tenant) -> None:
    tenant.apply("rbac")
    tenant.pod("one", "10.0.0.1")
    async with seeing(tenant.registry()) as seen:
        await seen.see("10.0.0.1:8080")
        tenant.plane.kubectl("-n", tenant.namespace, "delete", "rolebinding", "pymicro-discovery")
        # Who watches already is not asked again.
        await asyncio.to_thread(tenant.plane.restart_apiserver)
        await until("it is refused", lambda: f"{READER} may not" in seen.error, 20.0)
        assert seen.addresses == {"10.0.0.1:8080"}
        tenant.pod("two", "10.0.0.2")
        tenant.apply("rbac")
        await seen.see("10.0.0.1:8080", "10.0.0.2:8080")


async def test_a_role_for_list_alone_names_watch(tenant: Tenant) -> None:
    tenant.plane.allow(tenant.namespace, "default", verbs="list", resource="pods")
    tenant.pod("one", "10.0.0.1")
    async with seeing(tenant.registry("default")) as seen:
        await until("it is refused", lambda: bool(seen.error), 20.0)
        assert "may not watch pods" in seen.error
        assert 'verbs: ["list", "watch"]' in seen.error


# Publishing


def node(own: dict[str, Any], port: int = 8080) -> Node:
    return Node("greeter-1", f"{own['status']['podIP']}:{port}", "greeter", "1.0.0", {"protocol": "grpc"})


async def test_with_deploy_rbac_self_register_a_pod_writes_itself(tenant: Tenant) -> None:
    tenant.apply("rbac-self-register")
    tenant.plane.bind(tenant.namespace, SELF, "pymicro-self-register")
    document = pod(
        "greeter-1",
        "10.0.0.1",
        namespace=tenant.namespace,
        labels={"app.kubernetes.io/name": "greeter"},
        annotations={"kept": "x", "micro.mu/self-register": "greeter"},
    )
    document["spec"]["serviceAccountName"] = SELF
    own = pods.create(tenant.plane.api, document)
    server = tenant.registry(SELF, own, registry_advertise="patch")
    async with seeing(tenant.registry(SELF)) as seen, server:
        await until("the role is in force", lambda: seen.addresses == set(), 10.0)
        await server.register(node(own, 9090))
        await seen.see("10.0.0.1:9090")
        await server.deregister(node(own, 9090))
        await seen.see()
    meta = tenant.plane.api.get(pods.path(own))["metadata"]
    assert meta["labels"] == {"app.kubernetes.io/name": "greeter", "micro.mu/type": "service"}
    assert meta["annotations"] == {"kept": "x", "micro.mu/self-register": "greeter"}


async def test_a_record_that_somebody_removes_is_repaired(tenant: Tenant) -> None:
    tenant.apply("rbac-self-register")
    tenant.plane.bind(tenant.namespace, SELF, "pymicro-self-register")
    own_service = {"micro.mu/self-register": "greeter"}
    document = pod("greeter-1", namespace=tenant.namespace, annotations=own_service)
    document["spec"]["serviceAccountName"] = SELF
    own = pods.create(tenant.plane.api, document)
    server = tenant.registry(SELF, own, registry_advertise="patch")
    async with seeing(tenant.registry(SELF)) as seen, server:
        await until("the role is in force", lambda: seen.addresses == set(), 10.0)
        await server.register(node(own))
        await seen.see("10.0.0.1:8080")
        removed = {"micro.mu/service-greeter": None}
        tenant.plane.api.patch(pods.path(own), {"metadata": {"annotations": removed}})
        tenant.plane.api.patch(pods.path(own), {"metadata": {"labels": {"micro.mu/selector-greeter": None}}})
        await seen.see()
        await server.register(node(own))
        await seen.see("10.0.0.1:8080")


async def test_a_pod_that_may_not_patch_says_which_rule_is_missing(tenant: Tenant) -> None:
    tenant.apply("rbac")
    document = pod("greeter-1", namespace=tenant.namespace)
    document["spec"]["serviceAccountName"] = READER
    own = pods.create(tenant.plane.api, document)
    async with tenant.registry(READER, own, registry_advertise="patch") as server:
        with pytest.raises(RegistryError) as caught:
            await server.register(node(own))
    said = str(caught.value)
    assert f"{READER} may not patch pods greeter-1 in namespace {tenant.namespace}" in said
    assert 'verbs: ["patch"]' in said
    assert said.endswith("`pymicro doctor greeter` says more")


async def test_a_pod_that_the_policy_refuses_says_what_the_policy_says(tenant: Tenant) -> None:
    tenant.apply("rbac-self-register")
    tenant.plane.bind(tenant.namespace, SELF, "pymicro-self-register")
    # The template does not say which services it may register.
    document = pod("greeter-1", namespace=tenant.namespace, labels={"app.kubernetes.io/name": "greeter"})
    document["spec"]["serviceAccountName"] = SELF
    own = pods.create(tenant.plane.api, document)

    async with tenant.registry(SELF, own, registry_advertise="patch") as server:
        said: list[str] = []

        async def refused_by_the_policy() -> bool:
            try:
                await server.register(node(own))
            except RegistryError as exc:
                said.append(str(exc))
            else:
                # It was not in force yet: once more.
                await server.deregister(node(own))
            return bool(said) and "admission control refused it" in said[-1]

        await until("the policy refuses it", refused_by_the_policy, 20.0)
    assert "cannot patch pods greeter-1" in said[-1]
    assert "the annotation micro.mu/self-register in its template" in said[-1]
    assert "RBAC rule" not in said[-1]


async def test_a_labelled_pod_needs_no_rights_to_be_found(tenant: Tenant) -> None:
    tenant.apply("rbac")
    own = tenant.pod("greeter-1", "10.0.0.1")
    async with tenant.registry("default", own) as server, seeing(tenant.registry()) as seen:
        await server.register(node(own))
        await seen.see("10.0.0.1:8080")
        await server.deregister(node(own))
    meta = tenant.plane.api.get(pods.path(own))["metadata"]
    assert meta["labels"] == pods.SERVICE
    assert "annotations" not in meta


# Where to look


async def test_several_namespaces_and_all_of_them(tenant: Tenant) -> None:
    other = tenant.plane.namespace()
    tenant.pod("one", "10.0.0.1")
    tenant.pod("two", "10.0.0.2", namespace=other)
    for where in (tenant.namespace, other):
        tenant.plane.kubectl("-n", where, "apply", "-k", str(ROOT / "deploy/rbac"))
    tenant.plane.kubectl(
        "-n", other, "create", "rolebinding", "from-outside", "--role=pymicro-discovery",
        f"--serviceaccount={tenant.namespace}:{READER}",
    )  # fmt: skip
    async with seeing(tenant.registry(registry_namespace=[tenant.namespace, other])) as seen:
        await seen.see("10.0.0.1:8080", "10.0.0.2:8080")
    async with seeing(tenant.registry(registry_namespace=["*"])) as seen:
        await until("it is refused", lambda: bool(seen.error), 10.0)
        assert "in all namespaces" in seen.error
        assert "ClusterRole" in seen.error


# Outages


async def test_while_the_api_server_is_away_the_nodes_stay_and_then_it_heals(
    tenant: Tenant, say: Callable[[str], None]
) -> None:
    tenant.apply("rbac")
    one = tenant.pod("one", "10.0.0.1")
    tenant.pod("two", "10.0.0.2")
    # With the pauses that users have.
    registry = tenant.registry(timing=ReflectorTiming())
    async with seeing(registry) as seen:
        await seen.see("10.0.0.1:8080", "10.0.0.2:8080")
        away = time.monotonic()
        await asyncio.to_thread(tenant.plane.stop_apiserver)
        try:
            await until("it is noticed", lambda: bool(seen.error), 5.0)
            assert tenant.plane.url in seen.error
            assert seen.error.endswith("`pymicro doctor greeter` says more")
            await until("it is away for a while", lambda: time.monotonic() - away > 6.0, 10.0)
            assert seen.addresses == {"10.0.0.1:8080", "10.0.0.2:8080"}
            assert seen.age > 5.0
        finally:
            await asyncio.to_thread(tenant.plane.start_apiserver)
        back = time.monotonic()
        pods.delete(tenant.plane.api, one)
        tenant.pod("three", "10.0.0.3")
        await seen.see("10.0.0.2:8080", "10.0.0.3:8080", timeout=35.0)
        say(f"API server away {back - away:.1f} s: nodes kept, in step {time.monotonic() - back:.1f} s after")
