"""Tokens of a real cluster's service accounts, checked offline with the keys of its API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import (
    CallContext,
    Client,
    MemoryRegistry,
    PermissionDenied,
    Service,
    Unauthenticated,
    bearer_jwt,
    bearer_token,
    handler,
    kubernetes_jwt,
)
from pymicro.identity import issuer_keys
from pymicro.identity.accepted import AcceptedTokens
from tests.cluster.plane import ISSUER, ControlPlane
from tests.tls.ends import Authority

pytestmark = pytest.mark.cluster

ADA = pb.HelloRequest(name="Ada")


class Greeter:
    def __init__(self) -> None:
        self.callers: list[Any] = []

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        self.callers.append(context.caller)
        return pb.HelloReply()


def by_the_pod(plane: ControlPlane, folder: Path, patch: pytest.MonkeyPatch) -> AcceptedTokens:
    """As in a pod, whose own account leads to the API server."""
    for name, value in plane.pod_environment().items():
        patch.setenv(name, value)
    patch.setattr(issuer_keys.in_cluster, "__defaults__", (None, str(folder)))
    return kubernetes_jwt("greeter")


def by_a_file(plane: ControlPlane, folder: Path, patch: pytest.MonkeyPatch) -> AcceptedTokens:
    """Outside of the cluster, with its keys in a file: `kubectl get --raw /openid/v1/jwks`."""
    jwks = folder / "jwks.json"
    jwks.write_text(plane.kubectl("get", "--raw", "/openid/v1/jwks").stdout)
    return bearer_jwt(ISSUER, "greeter", str(jwks))


@pytest.mark.parametrize("accepted", [by_the_pod, by_a_file])
async def test_accounts_of_a_real_cluster(
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accepted: Callable[..., AcceptedTokens],
) -> None:
    for account in ("greeter", "cart", "thief"):
        plane.service_account(namespace, account)
    folder = plane.service_account_folder(tmp_path / "account", namespace, "greeter")
    (tmp_path / "certificates").mkdir()
    authority = Authority(tmp_path / "certificates")
    registry, own = MemoryRegistry(), Greeter()
    service = Service(
        "greeter",
        registry=registry,
        interceptors=[accepted(plane, folder, monkeypatch)],
        allow=[f"token:system:serviceaccount:{namespace}:cart"],
        tls_client_certificates="none",
        **authority.folder("greeter").settings,
    )
    service.add(own, pb, partial=True)
    token = tmp_path / "token"
    async with service:

        async def call(text: str) -> None:
            token.write_text(text)
            settings: Any = {"tls_ca": authority.ca_file(), "client_tls": "require"}
            async with Client(registry=registry, interceptors=[bearer_token(token)], **settings) as client:
                await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=20)

        await call(plane.token_for(namespace, "cart", audience="greeter"))
        with pytest.raises(
            PermissionDenied, match=f"token:system:serviceaccount:{namespace}:thief may not call"
        ):
            await call(plane.token_for(namespace, "thief", audience="greeter"))
        for audience in ("", "other"):
            with pytest.raises(Unauthenticated, match="its audience is another one than greeter"):
                await call(plane.token_for(namespace, "cart", audience=audience))
        with pytest.raises(Unauthenticated, match="its signature is not by the key"):
            good = plane.token_for(namespace, "cart", audience="greeter")
            await call(good[:-8] + ("AAAAAAAA" if not good.endswith("AAAAAAAA") else "BBBBBBBB"))
    (caller,) = own.callers
    assert caller.principal == f"token:system:serviceaccount:{namespace}:cart"
    account = caller.claims["kubernetes.io"]["serviceaccount"]
    assert (caller.claims["kubernetes.io"]["namespace"], account["name"]) == (namespace, "cart")
