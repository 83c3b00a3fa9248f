"""Parsers of what an API server, a kubeconfig and a credential plug-in say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from pymicro.base.findings import Finding
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.events import ends_initial_events, is_older, read_event
from pymicro.kubernetes.api.kubeconfig import Kubeconfig
from pymicro.kubernetes.api.lines import Lines
from pymicro.kubernetes.api.pages import Page
from pymicro.kubernetes.api.plugin import _credential
from pymicro.kubernetes.api.resource import PODS, Asked
from pymicro.kubernetes.api.status import refusal
from pymicro.kubernetes.api.table import Table, version_of
from pymicro.kubernetes.pods import diagnosis as pod_diagnosis
from pymicro.kubernetes.pods.reader import PodReader, services_of
from pymicro.kubernetes.slices import diagnosis as slice_diagnosis
from pymicro.kubernetes.slices.reader import SliceReader, owner_of
from pymicro.nodes.address import is_ip, split_address
from pymicro.nodes.keys import record_key
from tests.fakes.pods import pod
from tests.fakes.slices import endpoint
from tests.fakes.slices import slice as endpoint_slice
from tests.fuzz.inputs import altered, altered_text, as_json
from tests.fuzz.nodes import RECORD
from tests.fuzz.parser import Parser, runner

__all__ = ["PARSERS"]

# Kubernetes


def _pods() -> tuple[Any, ...]:
    keys = {
        "micro.mu/type": "service",
        "micro.mu/selector-greeter": "service",
        "topology.kubernetes.io/zone": "a",
    }
    registered = pod(
        uid="u",
        labels=keys,
        annotations={record_key("greeter"): json.dumps(RECORD), "micro.mu/metadata-a": "b"},
    )
    port = pod(uid="v", labels=keys, annotations={"micro.mu/port-greeter": "grpc"}, terminating=True)
    return registered, port, pod(uid="w", ip="fd00::1", labels=keys, ready=False, ports={"http": 80})


def _pod(found: Any) -> None:
    if not isinstance(found, dict):
        return
    reading = PodReader("greeter").read(found)
    assert len(reading.nodes) <= 8
    assert len(reading.text) < 2000
    assert all(isinstance(name, str) for name in services_of(found))
    pod_diagnosis.is_kin(found, "greeter")
    looked = [pod_diagnosis.look(found, "greeter")]
    _are_short(pod_diagnosis.findings("greeter", [None], looked, looked))
    _in_table(PodReader("greeter"), found)


def _are_short(findings: Iterable[Finding]) -> None:
    for finding in findings:
        assert max(map(len, (finding.check, finding.text, finding.fix))) < 1500


def _in_table(parse: Callable[[Any], Any], found: Any) -> None:
    table: Table[Any] = Table(parse, "things")
    table.put(found)
    table.successor().put(found)
    version_of(found)
    ends_initial_events(found)
    table.drop(found)
    assert not table.objects


def _slice(found: Any) -> None:
    if not isinstance(found, dict):
        return
    owner_of(found)
    for node in SliceReader("greeter")(found) or ():
        host, _ = split_address(node.address)
        assert is_ip(host)
    looked = [slice_diagnosis.look(found, "greeter")]
    _are_short(slice_diagnosis.findings("greeter", None, looked))
    _in_table(SliceReader("greeter"), found)


def _event(found: bytes) -> None:
    kind, thing = read_event(found)
    version = version_of(thing)
    is_older(version, "7"), is_older("7", version)
    if kind == "ERROR":
        _status(thing)


def _status(found: Any) -> None:
    if not isinstance(found, dict):
        return
    asked = Asked.of("GET", PODS.path("default"), {"watch": "1"})
    error = refusal(asked, found, server="https://10.0.0.1", account="ada")
    assert len(str(error)) < 2000
    assert error.retry_after is None or 0 < error.retry_after <= 86_400


def _page(found: bytes) -> None:
    page = Page(found)
    again = json.loads(found)
    try:
        items = list(page.objects())
    except ValueError:
        assert not isinstance(again, dict)
        raise
    listed = again.get("items")
    assert items == (listed if isinstance(listed, list) else []) or "items" in str(again)[3:]
    assert isinstance(page.resource_version, str)
    assert isinstance(page.proceed, str)


def _lines(found: list[bytes]) -> None:
    chunks = iter([*(one for one in found if one), b""])

    async def read() -> bytes:
        return next(chunks)

    async def all_of_it() -> list[bytes]:
        return [line async for line in Lines(read, what="a stream", idle_timeout=60, longest=64)]

    assert runner().run(all_of_it()) == [line for line in b"".join(found).split(b"\n") if line]


_KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
    "clusters": [
        {
            "name": "c",
            "cluster": {
                "server": "https://127.0.0.1:6443",
                "certificate-authority-data": "aGk=",
                "insecure-skip-tls-verify": False,
                "proxy-url": "http://10.0.0.1:3128",
                "tls-server-name": "x",
                "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {}}],
            },
        }
    ],
    "users": [
        {
            "name": "u",
            "user": {
                "token": "t",
                "as": "eve",
                "as-groups": ["g"],
                "as-user-extra": {"k": ["v"]},
                "client-certificate": "here.pem",
                "client-key": "here.pem",
            },
        }
    ],
}
_USERS = (
    {"username": "ada", "password": "p"},
    {"tokenFile": "token"},
    {"auth-provider": {"name": "oidc", "config": {"id-token": "e30.eyJleHAiOjk5OTk5OTk5OTl9.e30"}}},
    {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "no-such-program",
            "args": ["a"],
            "env": [{"name": "A", "value": "b"}],
            "interactiveMode": "Never",
            "provideClusterInfo": True,
        }
    },
)


def _kubeconfigs() -> st.SearchStrategy[str]:
    documents = [_KUBECONFIG, *({**_KUBECONFIG, "users": [{"name": "u", "user": user}]} for user in _USERS)]
    # JSON is YAML, and what json.dumps does not write (tags, anchors) is put in.
    yaml = st.sampled_from(
        ("&a ", "*a", "!!python/object:os.system ", "!!binary ", "<<: ", "? ", "- ", "\t", "# ", "---\n")
    )
    plain = altered(*documents).map(json.dumps)
    return altered_text(plain) | st.builds(
        lambda one, mark, at: one[: at % (len(one) + 1)] + mark + one[at % (len(one) + 1) :],
        plain,
        yaml,
        st.integers(0, 2000),
    )


def _kubeconfig(found: str | bytes) -> None:
    data = found if isinstance(found, bytes) else found.encode(errors="surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config")
        with open(path, "wb") as file:
            file.write(data)
        kubeconfig = Kubeconfig(path, "", {"PATH": "/nonexistent"})
        runner().run(kubeconfig.read())


_CREDENTIAL = {
    "kind": "ExecCredential",
    "apiVersion": "client.authentication.k8s.io/v1",
    "status": {
        "token": "t",
        "clientCertificateData": "c",
        "clientKeyData": "k",
        "expirationTimestamp": "2030-01-01T00:00:00Z",
    },
}


def _plugin(found: str) -> None:
    credential = _credential(
        "plug-in", "client.authentication.k8s.io/v1", found.encode(errors="surrogatepass")
    )
    assert credential.lifetime is None or credential.lifetime > 0


PARSERS = (
    Parser("pod", altered(*_pods()), _pod),
    Parser(
        "endpoint slice",
        altered(
            endpoint_slice(
                "greeter-1",
                endpoint("10.0.0.1", pod="a", zone="z", hints=["z"]),
                endpoint("fd00::1"),
                uid="u",
            )
        ),
        _slice,
    ),
    Parser(
        "watch event",
        as_json(
            altered({"type": "ADDED", "object": pod(uid="u")}, {"type": "ERROR", "object": {"code": 410}})
        ).map(lambda one: one.encode(errors="surrogatepass")),
        _event,
        (KubeError,),
    ),
    Parser(
        "status",
        altered(
            {
                "kind": "Status",
                "code": 403,
                "reason": "Forbidden",
                "message": "no",
                "details": {"retryAfterSeconds": 3, "causes": [{"reason": "ResourceVersionTooLarge"}]},
            }
        ),
        _status,
    ),
    Parser(
        "page",
        as_json(
            altered({"metadata": {"resourceVersion": "5", "continue": "x"}, "items": [{"a": 1}, 2, []]})
        ).map(lambda one: one.encode(errors="surrogatepass")),
        _page,
        (ValueError, RecursionError),
    ),
    Parser(
        "lines",
        st.lists(
            st.sampled_from((b"\n", b"\r\n", b"a", b"\xff", b"{}\n", b"x" * 40)) | st.binary(max_size=9)
        ),
        _lines,
        (KubeError,),
    ),
    Parser("kubeconfig", _kubeconfigs(), _kubeconfig, (KubeError,), aside=True),
    Parser("plug-in's answer", as_json(altered(_CREDENTIAL)), _plugin, (KubeError,)),
)
