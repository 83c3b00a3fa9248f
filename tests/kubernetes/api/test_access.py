"""What the account may do, and the rule that would let it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from pymicro.kubernetes.api.access import may
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.resource import ENDPOINT_SLICES, PODS, rule_for
from tests.fakes.kube_api import FakeKubeApi
from tests.kubernetes.api.serving import serving


def test_the_rule_is_yaml_that_says_where_it_belongs() -> None:
    assert rule_for(PODS, ["list", "watch"], "shop") == (
        "# under `rules` of a Role in namespace shop, bound to the account\n"
        '- apiGroups: [""]\n'
        '  resources: ["pods"]\n'
        '  verbs: ["list", "watch"]'
    )
    everywhere = rule_for(ENDPOINT_SLICES, ["watch"], None)
    assert "of a ClusterRole (with a ClusterRoleBinding)" in everywhere
    assert 'apiGroups: ["discovery.k8s.io"]' in everywhere


async def test_the_server_says_what_may_be_done() -> None:
    async with FakeKubeApi() as api, KubeClient(lambda: find_cluster([api.url])) as client:
        api.forbid("patch", "pods", "default")
        assert await may(client, "list", PODS, "default")
        assert not await may(client, "patch", PODS, "default")


async def test_all_namespaces_are_asked_for_without_a_namespace() -> None:
    reviews = []

    async def review(request: web.BaseRequest) -> web.StreamResponse:
        reviews.append(json.loads(await request.read()))
        return web.json_response({"status": {"allowed": True}}, status=201)

    async with serving(review) as served, KubeClient(lambda: find_cluster([served.url])) as client:
        assert await may(client, "watch", ENDPOINT_SLICES, None)
        assert await may(client, "patch", PODS, "shop", "greeter-1")
    assert [one["spec"]["resourceAttributes"] for one in reviews] == [
        {
            "verb": "watch",
            "group": "discovery.k8s.io",
            "version": "v1",
            "resource": "endpointslices",
            "namespace": "",
            "name": "",
        },
        {
            "verb": "patch",
            "group": "",
            "version": "v1",
            "resource": "pods",
            "namespace": "shop",
            "name": "greeter-1",
        },
    ]
    assert reviews[0]["kind"] == "SelfSubjectAccessReview"
    assert served.requests[0].path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.mark.parametrize("answer", [{}, [], None, {"status": None}, {"status": {"allowed": "yes"}}])
async def test_an_answer_that_does_not_allow_denies(answer: object) -> None:
    async def review(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(answer, status=201)

    async with serving(review) as served, KubeClient(lambda: find_cluster([served.url])) as client:
        assert not await may(client, "list", PODS, "default")


async def test_a_server_that_cannot_say_is_an_error_and_no_denial() -> None:
    async def review(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({}, status=500)

    async with serving(review) as served, KubeClient(lambda: find_cluster([served.url])) as client:
        with pytest.raises(KubeError):
            await may(client, "list", PODS, "default")
