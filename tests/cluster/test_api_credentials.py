"""Every way to be somebody on a real API server, and what it says to who may not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pymicro.kubernetes.api.access import may
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import ENDPOINT_SLICES, PODS
from tests.cluster import pods
from tests.cluster.api import Refused
from tests.cluster.plane import ControlPlane, ending_with_us, eventually, until
from tests.fakes.pods import pod

pytestmark = pytest.mark.cluster

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


@contextlib.asynccontextmanager
async def inside(plane: ControlPlane, folder: Path) -> AsyncIterator[KubeClient]:
    """A client as in a pod."""
    cluster = await find_cluster((), plane.pod_environment(), str(folder))
    async with KubeClient(cluster) as client:
        yield client


@contextlib.asynccontextmanager
async def outside(address: Sequence[str]) -> AsyncIterator[KubeClient]:
    """A client as on somebody's laptop."""
    cluster = await find_cluster(address, {})
    async with KubeClient(cluster) as client:
        yield client


async def who_am_i(client: KubeClient) -> str:
    answer = await client.request("POST", REVIEWS, body={"kind": "SelfSubjectReview"})
    return str(answer["status"]["userInfo"]["username"])


async def refusal(client: KubeClient, method: str, path: str, **request: Any) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await client.request(method, path, **request)
    return caught.value


async def test_a_pods_service_account(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    plane.allow(namespace, "default", verbs="list,watch", resource="pods")
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default")
    async with inside(plane, folder) as client:
        assert await who_am_i(client) == f"system:serviceaccount:{namespace}:default"
        answer = await client.request("GET", PODS.path(client.cluster.namespace))
        assert answer["kind"] == "PodList"
        assert client.cluster.namespace == namespace
        assert client.describe() == f"{plane.url} (service account {namespace}/default)"


async def test_a_token_that_kubelet_replaces_is_used_before_the_old_one_runs_out(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane.service_account(namespace, "next")
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default")
    async with inside(plane, folder) as client:
        assert (await who_am_i(client)).endswith(":default")
        # Another account's, so that it can be told apart.
        (folder / "token").write_text(plane.token_for(namespace, "next"))

        async def is_next() -> bool:
            return (await who_am_i(client)).endswith(":next")

        await until("the new token is used", is_next, 5.0)


async def test_a_token_that_the_server_no_longer_takes_is_a_401_until_there_is_another(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    # A token is good for ten minutes at least; but one that is bound to a pod ends with the pod.
    bound = pods.create(plane.api, pod("greeter", namespace=namespace))
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default", pod=bound)
    old = plane.api.as_token((folder / "token").read_text())

    def is_refused() -> bool:
        try:
            old.post(REVIEWS, {"kind": "SelfSubjectReview"})
        except Refused as exc:
            return exc.status == 401
        return False

    async with inside(plane, folder) as client:
        await who_am_i(client)
        pods.delete(plane.api, bound)
        # The server remembers for ten seconds that the token was good.
        await asyncio.to_thread(eventually, "the token is refused", is_refused, 20.0)
        error = await refusal(client, "POST", REVIEWS, body={"kind": "SelfSubjectReview"})
        assert error.status == 401
        assert f"the credentials of system:serviceaccount:{namespace}:default" in str(error)
        (folder / "token").write_text(plane.token_for(namespace, "default"))
        assert (await who_am_i(client)).endswith(":default")


async def test_a_kubeconfig_with_a_token_and_a_context(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    user = {"token": plane.token_for(namespace, "default")}
    path = plane.kubeconfig_for(tmp_path / "config", user, namespace=namespace, context="mine")
    async with outside([f"kubeconfig={path}", "context=mine"]) as client:
        assert await who_am_i(client) == f"system:serviceaccount:{namespace}:default"
        assert client.cluster.namespace == namespace


async def test_a_kubeconfig_with_a_client_certificate(plane: ControlPlane, tmp_path: Path) -> None:
    certificate, key = await asyncio.to_thread(plane.client_certificate, "ada")
    user = {"client-certificate": certificate, "client-key": key}
    path = plane.kubeconfig_for(tmp_path / "config", user)
    async with outside([f"kubeconfig={path}"]) as client:
        assert await who_am_i(client) == "ada"


async def test_a_kubeconfig_with_a_credential_plugin(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    version = "client.authentication.k8s.io/v1"
    printed = {
        "apiVersion": version,
        "kind": "ExecCredential",
        "status": {"token": plane.token_for(namespace, "default")},
    }
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"import json; print(json.dumps({printed!r}))")
    user = {
        "exec": {
            "apiVersion": version,
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }
    path = plane.kubeconfig_for(tmp_path / "config", user)
    async with outside([f"kubeconfig={path}"]) as client:
        assert await who_am_i(client) == f"system:serviceaccount:{namespace}:default"


async def test_a_url_through_kubectl_proxy(plane: ControlPlane, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*ending_with_us(), plane.kubectl_program, "proxy", "--port=0"),
        env={"KUBECONFIG": plane.kubeconfig, "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        # Starting to serve on 127.0.0.1:41234
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        async with outside([f"http://{line.split()[-1]}"]) as client:
            assert await who_am_i(client) == "admin"
    finally:
        process.kill()
        await process.wait()


async def test_a_server_with_a_certificate_of_somebody_else_is_not_asked(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default")
    (folder / "ca.crt").write_text((plane.folder / "clients.crt").read_text())
    async with inside(plane, folder) as client:
        error = await refusal(client, "POST", REVIEWS, body={"kind": "SelfSubjectReview"})
        assert error.status == 0
        assert "certificate" in str(error)


@pytest.mark.parametrize("everywhere", [False, True], ids=["a namespace", "all namespaces"])
@pytest.mark.parametrize("resource", [PODS, ENDPOINT_SLICES], ids=["pods", "endpointslices"])
async def test_the_rule_that_a_403_prints_is_the_one_that_is_missing(
    plane: ControlPlane, namespace: str, tmp_path: Path, resource: Any, everywhere: bool
) -> None:
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default")
    where = None if everywhere else namespace
    async with inside(plane, folder) as client:
        error = await refusal(client, "GET", resource.path(where))
        assert error.status == 403
        assert f"system:serviceaccount:{namespace}:default may not list {resource.plural} in" in str(error)
        assert not await may(client, "list", resource, where)

        _, _, rule = str(error).partition("RBAC rule is missing:\n")
        kind = "ClusterRole" if everywhere else "Role"
        assert f"a {kind}" in rule
        # Pasted as it is, where it says.
        manifest = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}
metadata: {{name: {namespace}}}
rules:
{rule}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}Binding
metadata: {{name: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {namespace}}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: default}}]
"""
        await asyncio.to_thread(plane.kubectl, "-n", namespace, "apply", "-f", "-", stdin=manifest)
        await until("the rule is in force", lambda: may(client, "list", resource, where), 10.0)
        assert "items" in await client.request("GET", resource.path(where))
        assert await may(client, "watch", resource, where)
        assert not await may(client, "patch", resource, where)


async def test_a_server_that_is_away_is_an_error_that_says_which(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    folder = plane.service_account_folder(tmp_path / "account", namespace, "default")
    async with inside(plane, folder) as client:
        await who_am_i(client)
        await asyncio.to_thread(plane.stop_apiserver)
        try:
            error = await refusal(client, "GET", PODS.path(namespace))
        finally:
            await asyncio.to_thread(plane.start_apiserver)
        assert error.status == 0
        assert plane.url in str(error)
        await who_am_i(client)
