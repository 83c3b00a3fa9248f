"""Kubeconfigs of the shapes that people have, for `test_kubectl.py`: kubectl and pymicro get the same files.

Each function with `@shape` writes files into a folder and returns the environment.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.recorder import Recorder

V1 = "client.authentication.k8s.io/v1"
BETA = "client.authentication.k8s.io/v1beta1"
# A name for the server, which only a proxy can lead to.
FAR = "https://api.shop.example:6443"
FAR_PLAIN = "http://api.shop.example:8080"


@dataclass(frozen=True)
class Pems:
    """The authority of the recorder, its certificate for `ada`, and others.

    Attributes:
        plain: The authority of the server `tls plain`; no certificate there has a key identifier.
        middle: The authority, signed by another one, of the server `tls middle`.
    """

    ca: str
    ada: str
    ada_key: str
    other_key: str
    stranger: str
    plain: str
    middle: str


PLUGIN = """\
#!/bin/sh
printf '%s\\n' "$KUBERNETES_EXEC_INFO" >> "$0.asked"
printf '%s|%s\\n' "$*" "$REGION" >> "$0.called"
cat "$0.answer"
"""


class World:
    """What a shape is made of: a folder, the recorder's addresses, certificates."""

    def __init__(self, folder: Path, recorder: Recorder, pems: Pems) -> None:
        self.folder = folder
        self.recorder = recorder
        self.pems = pems
        self.bin = folder / "bin"
        self.bin.mkdir()

    def write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    @property
    def ca(self) -> dict[str, Any]:
        """A cluster's authority as data."""
        return {"certificate-authority-data": data(self.pems.ca)}

    def plugin(self, name: str, where: str = "bin", version: str = V1, **status: Any) -> Path:
        """A credential plug-in that prints `status`."""
        path = self.write(f"{where}/{name}", PLUGIN)
        path.chmod(0o755)
        answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        self.write(f"{where}/{name}.answer", json.dumps(answer))
        return path

    def one(
        self,
        user: Mapping[str, Any] | None = None,
        *,
        server: str = "",
        file: str = "config",
        context: Mapping[str, Any] | None = None,
        **cluster: Any,
    ) -> dict[str, str]:
        """A file with one context, and the environment that names it. Without `server`: the one with TLS."""
        given = {"server": server or self.recorder.tls}
        if not server or server.startswith("https"):
            given |= self.ca
        given |= {key.replace("_", "-"): value for key, value in cluster.items()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}}],
            "clusters": [
                {"name": "c", "cluster": {key: value for key, value in given.items() if value is not None}}
            ],
            "users": [{"name": "u", "user": dict(user or {})}],
        }
        return self.files({file: document})

    def files(self, documents: Mapping[str, Any], **environ: str) -> dict[str, str]:
        """Files, in the order of KUBECONFIG; text is written as it is."""
        for name, document in documents.items():
            self.write(name, document if isinstance(document, str) else yaml.safe_dump(document))
        return {"KUBECONFIG": ":".join(str(self.folder / name) for name in documents), **environ}

    def part(self, name: str, token: str, **more: Any) -> dict[str, Any]:
        """A document with a context, a cluster and a user of this name."""
        return {
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": {"server": self.recorder.tls, **self.ca}}],
            "users": [{"name": name, "user": {"token": token}}],
            **more,
        }


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def jwt(**claims: Any) -> str:
    parts = ({"alg": "none"}, claims)
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "s"]
    )


Shape = Callable[[World], dict[str, str]]
SHAPES: dict[str, Shape] = {}


def shape(make: Shape) -> Shape:
    SHAPES[make.__name__] = make
    return make


# Clouds and distributions


@shape
def eks(w: World) -> dict[str, str]:
    w.plugin(
        "aws", version=BETA, token="k8s-aws-v1.aHR0cHM6Ly9zdHM", expirationTimestamp="2099-01-01T00:00:00Z"
    )
    arn = "arn:aws:eks:eu-central-1:111122223333:cluster/shop"
    return w.files(
        {
            "config": {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": arn,
                "contexts": [{"name": arn, "context": {"cluster": arn, "user": arn}}],
                "clusters": [{"name": arn, "cluster": {"server": w.recorder.tls, **w.ca}}],
                "users": [
                    {
                        "name": arn,
                        "user": {
                            "exec": {
                                "apiVersion": BETA,
                                "command": "aws",
                                "args": [
                                    "--region",
                                    "eu-central-1",
                                    "eks",
                                    "get-token",
                                    "--cluster-name",
                                    "shop",
                                ],
                                "env": [{"name": "REGION", "value": "eu-central-1"}],
                                "provideClusterInfo": False,
                            }
                        },
                    }
                ],
            }
        }
    )


@shape
def gke(w: World) -> dict[str, str]:
    w.plugin("gke-gcloud-auth-plugin", version=BETA, token="ya29.a0Af")
    return w.one(
        {
            "exec": {
                "apiVersion": BETA,
                "command": "gke-gcloud-auth-plugin",
                "installHint": "Install gke-gcloud-auth-plugin",
                "interactiveMode": "IfAvailable",
                "provideClusterInfo": True,
            }
        }
    )


@shape
def gke_before_1_26(w: World) -> dict[str, str]:
    config = {"cmd-path": "gcloud", "access-token": "ya29", "expiry": "2099-01-01T00:00:00Z"}
    return w.one({"auth-provider": {"name": "gcp", "config": config}})


@shape
def aks_kubelogin(w: World) -> dict[str, str]:
    w.plugin("kubelogin", version=BETA, token=jwt(sub="ada"))
    args = ["get-token", "--login", "azurecli", "--server-id", "6dae42f8"]
    return w.one({"exec": {"apiVersion": BETA, "command": "kubelogin", "args": args, "env": None}})


@shape
def aks_admin(w: World) -> dict[str, str]:
    user = {
        "client-certificate-data": data(w.pems.ada),
        "client-key-data": data(w.pems.ada_key),
        "token": "0123456789abcdef" * 8,
    }
    return w.one(user)


@shape
def oidc_with_a_token_that_is_good(w: World) -> dict[str, str]:
    token = jwt(sub="ada", exp=int(time.time()) + 3600)
    config = {"client-id": "kubernetes", "idp-issuer-url": "https://id.shop.example", "id-token": token}
    return w.one({"auth-provider": {"name": "oidc", "config": config}})


@shape
def oidc_with_a_token_that_has_run_out(w: World) -> dict[str, str]:
    token = jwt(sub="ada", exp=int(time.time()) - 3600)
    config = {"client-id": "kubernetes", "idp-issuer-url": "https://127.0.0.1:1", "id-token": token}
    return w.one({"auth-provider": {"name": "oidc", "config": config}})


@shape
def oidc_login(w: World) -> dict[str, str]:
    w.plugin("kubectl-oidc_login", token=jwt(sub="ada"))
    args = ["oidc-login", "get-token", "--oidc-issuer-url=https://id.shop.example"]
    return w.one(
        {
            "exec": {
                "apiVersion": V1,
                "command": "kubectl-oidc_login",
                "args": args,
                "interactiveMode": "IfAvailable",
            }
        }
    )


@shape
def kind(w: World) -> dict[str, str]:
    user = {"client-certificate-data": data(w.pems.ada), "client-key-data": data(w.pems.ada_key)}
    return w.one(user)


@shape
def k3s(w: World) -> dict[str, str]:
    return w.files(
        {
            "k3s.yaml": f"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {data(w.pems.ca)}
    server: {w.recorder.tls}
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {{}}
users:
- name: default
  user:
    client-certificate-data: {data(w.pems.ada)}
    client-key-data: {data(w.pems.ada_key)}
"""
        }
    )


@shape
def minikube(w: World) -> dict[str, str]:
    ca = w.write(".minikube/ca.crt", w.pems.ca)
    crt = w.write(".minikube/profiles/minikube/client.crt", w.pems.ada)
    key = w.write(".minikube/profiles/minikube/client.key", w.pems.ada_key)
    extension = {"provider": "minikube.sigs.k8s.io", "last-update": "Mon, 01 Jan 2024 10:00:00 UTC"}
    return w.one(
        {"client-certificate": str(crt), "client-key": str(key)},
        certificate_authority_data=None,
        certificate_authority=str(ca),
        extensions=[{"name": "cluster_info", "extension": extension}],
    )


@shape
def rancher_with_a_path(w: World) -> dict[str, str]:
    return w.one({"token": "kubeconfig-user-abc:def"}, server=f"{w.recorder.tls}/k8s/clusters/c-m-abc")


@shape
def a_path_with_a_slash_at_its_end(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/k8s/clusters/c-m-abc/")


@shape
def a_slash_after_the_port(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/")


@shape
def microk8s_token(w: World) -> dict[str, str]:
    return w.one({"token": "bmFtZTpzZWNyZXQK=="})


@shape
def openshift(w: World) -> dict[str, str]:
    return w.one(
        {"token": "sha256~AbC"}, context={"namespace": "shop", "user": "u"}, insecure_skip_tls_verify=False
    )


@shape
def kubeadm_bootstrap(w: World) -> dict[str, str]:
    return w.one({"token": "07401b.f395accd246ae52d"})


@shape
def teleport(w: World) -> dict[str, str]:
    w.plugin("tsh", version=BETA, clientCertificateData=w.pems.ada, clientKeyData=w.pems.ada_key)
    return w.one(
        {"exec": {"apiVersion": BETA, "command": "tsh", "args": ["kube", "credentials"], "env": []}},
        tls_server_name="kubernetes.default.svc",
    )


@shape
def a_service_account_token_in_a_file(w: World) -> dict[str, str]:
    path = w.write("token", "from-a-file\n")
    return w.one({"tokenFile": str(path)})


# Users


@shape
def nobody(w: World) -> dict[str, str]:
    return w.one({})


@shape
def a_context_without_a_user(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, context={"user": ""})


@shape
def a_user_that_is_null(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"}) | {"users": [{"name": "a", "user": None}]}
    return w.files({"config": document})


@shape
def a_user_who_is_not_there(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, context={"user": "gone"})


@shape
def basic(w: World) -> dict[str, str]:
    return w.one({"username": "ada", "password": "p:ä ss"})


@shape
def basic_without_a_password(w: World) -> dict[str, str]:
    return w.one({"username": "ada"})


@shape
def a_password_without_a_name(w: World) -> dict[str, str]:
    return w.one({"password": "secret"})


@shape
def a_token_and_a_password(w: World) -> dict[str, str]:
    return w.one({"token": "t", "username": "ada", "password": "secret"})


@shape
def a_token_file_and_a_password(w: World) -> dict[str, str]:
    return w.one({"tokenFile": str(w.write("token", "t")), "username": "ada", "password": "secret"})


@shape
def a_token_and_a_token_file(w: World) -> dict[str, str]:
    return w.one({"token": "direct", "tokenFile": str(w.write("token", "from-a-file"))})


@shape
def a_token_and_a_token_file_that_is_gone(w: World) -> dict[str, str]:
    return w.one({"token": "direct", "tokenFile": str(w.folder / "gone")})


@shape
def a_token_file_that_is_gone(w: World) -> dict[str, str]:
    return w.one({"tokenFile": str(w.folder / "gone")})


@shape
def an_empty_token_file(w: World) -> dict[str, str]:
    return w.one({"tokenFile": str(w.write("token", ""))})


@shape
def a_token_with_blanks_around_it(w: World) -> dict[str, str]:
    return w.one({"tokenFile": str(w.write("token", "  t\n\n"))})


@shape
def a_token_in_two_lines(w: World) -> dict[str, str]:
    return w.one({"tokenFile": str(w.write("token", "one\ntwo\n"))})


@shape
def a_token_beyond_ascii(w: World) -> dict[str, str]:
    return w.one({"token": "größe"})


@shape
def a_cookie(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/cookie")


@shape
def a_token_that_is_a_number(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("a", "TOKEN", **{"current-context": "a"}))
    return w.files({"config": document.replace("TOKEN", "12345")})


@shape
def a_token_that_is_a_number_by_chance(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("a", "TOKEN", **{"current-context": "a"}))
    return w.files({"config": document.replace("TOKEN", "12e34")})


@shape
def a_token_that_is_a_truth_value(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("a", "TOKEN", **{"current-context": "a"}))
    return w.files({"config": document.replace("TOKEN", "y")})


@shape
def a_token_that_looks_like_a_time(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("a", "TOKEN", **{"current-context": "a"}))
    return w.files({"config": document.replace("TOKEN", "2024-01-01")})


@shape
def a_certificate_and_a_token(w: World) -> dict[str, str]:
    return w.one(
        {
            "client-certificate-data": data(w.pems.ada),
            "client-key-data": data(w.pems.ada_key),
            "token": "t",
        }
    )


@shape
def a_certificate_without_its_key(w: World) -> dict[str, str]:
    return w.one({"client-certificate-data": data(w.pems.ada)})


@shape
def a_key_without_its_certificate(w: World) -> dict[str, str]:
    return w.one({"client-key-data": data(w.pems.ada_key), "token": "t"})


@shape
def a_certificate_twice(w: World) -> dict[str, str]:
    crt = w.write("ada.crt", w.pems.ada)
    return w.one(
        {
            "client-certificate": str(crt),
            "client-certificate-data": data(w.pems.ada),
            "client-key-data": data(w.pems.ada_key),
        }
    )


@shape
def a_certificate_as_a_path_and_its_key_as_data(w: World) -> dict[str, str]:
    crt = w.write("ada.crt", w.pems.ada)
    return w.one({"client-certificate": str(crt), "client-key-data": data(w.pems.ada_key)})


@shape
def a_certificate_that_is_none(w: World) -> dict[str, str]:
    return w.one({"client-certificate-data": data("none"), "client-key-data": data("none")})


@shape
def data_that_is_no_base64(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data="%%%")


@shape
def data_over_several_lines(w: World) -> dict[str, str]:
    text = "\n".join(data(w.pems.ca)[at : at + 64] for at in range(0, len(data(w.pems.ca)), 64))
    return w.one({"token": "t"}, certificate_authority_data=text)


# Impersonation


@shape
def acting_as_a_user(w: World) -> dict[str, str]:
    return w.one({"token": "t", "as": "jane@shop.example"})


@shape
def acting_as_all_that_there_is(w: World) -> dict[str, str]:
    return w.one(
        {
            "token": "t",
            "as": "system:serviceaccount:shop:greeter",
            "as-uid": "06f6ce97",
            "as-groups": ["developers", "admins"],
            "as-user-extra": {
                "scopes": ["view", "edit"],
                "acme.com/project": ["some-project"],
                "Dash-Key": ["x"],
                "100%": ["n1"],
                "größe": ["z"],
                "UPPER": ["é"],
            },
        }
    )


@shape
def acting_with_a_certificate(w: World) -> dict[str, str]:
    user = {"client-certificate-data": data(w.pems.ada), "client-key-data": data(w.pems.ada_key)}
    return w.one(user | {"as": "jane"})


@shape
def acting_in_groups_of_nobody(w: World) -> dict[str, str]:
    return w.one({"token": "t", "as-groups": ["admins"]})


@shape
def acting_as_a_user_in_plain_http(w: World) -> dict[str, str]:
    return w.one({"as": "jane"}, server=w.recorder.plain)


# Servers


@shape
def plain_http(w: World) -> dict[str, str]:
    return w.one({}, server=w.recorder.plain)


@shape
def plain_http_and_a_token(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=FAR_PLAIN, proxy_url=w.recorder.proxy)


@shape
def plain_http_and_a_password(w: World) -> dict[str, str]:
    return w.one({"username": "ada", "password": "s"}, server=FAR_PLAIN, proxy_url=w.recorder.proxy)


@shape
def plain_http_and_a_token_file(w: World) -> dict[str, str]:
    path = w.write("token", "t")
    return w.one({"tokenFile": str(path)}, server=FAR_PLAIN, proxy_url=w.recorder.proxy)


@shape
def plain_http_and_a_plug_in(w: World) -> dict[str, str]:
    w.plugin("aws", token="t")
    user = {"exec": {"apiVersion": V1, "command": "aws", "interactiveMode": "Never"}}
    return w.one(user, server=FAR_PLAIN, proxy_url=w.recorder.proxy)


@shape
def a_token_over_loopback(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=w.recorder.plain)


@shape
def a_token_over_loopback_and_a_proxy(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=w.recorder.plain, proxy_url=w.recorder.proxy)


@shape
def a_server_without_a_scheme(w: World) -> dict[str, str]:
    return w.one({}, server=w.recorder.plain.removeprefix("http://"))


@shape
def a_server_of_another_scheme(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server="ftp://127.0.0.1:1")


@shape
def a_server_with_a_password(w: World) -> dict[str, str]:
    return w.one({"as": "jane"}, server=w.recorder.plain.replace("http://", "http://ada:secret@"))


@shape
def a_cluster_without_a_server(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"}) | {"clusters": [{"name": "a", "cluster": {}}]}
    return w.files({"config": document})


@shape
def another_name_of_the_server(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, tls_server_name="kubernetes.default.svc")


@shape
def a_name_that_the_server_has_not(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, tls_server_name="example.org")


@shape
def a_server_that_is_not_checked(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data=None, insecure_skip_tls_verify=True)


@shape
def not_checked_under_another_name(w: World) -> dict[str, str]:
    return w.one(
        {"token": "t"},
        certificate_authority_data=None,
        insecure_skip_tls_verify=True,
        tls_server_name="example.org",
    )


@shape
def an_authority_that_is_not_to_be_checked(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, insecure_skip_tls_verify=True)


@shape
def an_authority_twice(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority=str(w.write("ca.crt", w.pems.ca)))


@shape
def an_authority_of_somebody_else(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data=data(w.pems.stranger))


@shape
def the_authorities_of_the_system(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data=None)


@shape
def several_authorities_and_words_between_them(w: World) -> dict[str, str]:
    text = f"# alte Behörde\n{w.pems.stranger}\n# neue Behörde\n{w.pems.ca}"
    return w.one({"token": "t"}, certificate_authority_data=data(text))


@shape
def an_authority_that_is_none(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data=data("none"))


@shape
def an_authority_that_is_gone(w: World) -> dict[str, str]:
    return w.one(
        {"token": "t"}, certificate_authority_data=None, certificate_authority=str(w.folder / "gone")
    )


@shape
def certificates_without_key_identifiers(w: World) -> dict[str, str]:
    server = f"https://127.0.0.1:{w.recorder.ports['tls plain']}"
    return w.one({"token": "t"}, server=server, certificate_authority_data=data(w.pems.plain))


@shape
def an_authority_that_is_no_root(w: World) -> dict[str, str]:
    server = f"https://127.0.0.1:{w.recorder.ports['tls middle']}"
    return w.one({"token": "t"}, server=server, certificate_authority_data=data(w.pems.middle))


@shape
def a_server_with_a_common_name_only(w: World) -> dict[str, str]:
    server = f"https://127.0.0.1:{w.recorder.ports['tls name']}"
    return w.one(
        {"token": "t"}, server=server, certificate_authority_data=data(w.pems.plain), tls_server_name="server"
    )


@shape
def a_truth_value_in_quotes(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, certificate_authority_data=None, insecure_skip_tls_verify="true")


@shape
def a_redirect_within_the_server(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/moved")


@shape
def a_redirect_to_another_server(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/away")


# Files


@shape
def paths_relative_to_the_file(w: World) -> dict[str, str]:
    w.write("pki/ca.crt", w.pems.ca)
    w.write("pki/ada.crt", w.pems.ada)
    w.write("ada.key", w.pems.ada_key)
    return w.one(
        {"client-certificate": "../pki/ada.crt", "client-key": "../ada.key"},
        file="conf/config",
        certificate_authority_data=None,
        certificate_authority="./../pki/ca.crt",
    )


@shape
def a_token_file_relative_to_the_file(w: World) -> dict[str, str]:
    w.write("conf/token", "relative")
    return w.one({"tokenFile": "token"}, file="conf/config")


@shape
def a_path_from_home(w: World) -> dict[str, str]:
    w.write("ca.crt", w.pems.ca)
    return w.one({"token": "t"}, certificate_authority_data=None, certificate_authority="~/ca.crt")


@shape
def the_file_at_home(w: World) -> dict[str, str]:
    w.one({"token": "t"}, file=".kube/config")
    return {}


@shape
def a_variable_that_is_empty(w: World) -> dict[str, str]:
    w.one({"token": "t"}, file=".kube/config")
    return {"KUBECONFIG": ""}


@shape
def no_file(w: World) -> dict[str, str]:
    return {"KUBECONFIG": str(w.folder / "gone")}


@shape
def an_empty_file(w: World) -> dict[str, str]:
    return w.files({"config": ""})


@shape
def several_files(w: World) -> dict[str, str]:
    return w.files({"one": w.part("a", "first"), "two": w.part("b", "second", **{"current-context": "b"})})


@shape
def the_first_current_context(w: World) -> dict[str, str]:
    return w.files(
        {
            "none": w.part("c", "third", **{"current-context": ""}),
            "one": w.part("a", "first", **{"current-context": "a"}),
            "two": w.part("b", "second", **{"current-context": "b"}),
        }
    )


@shape
def the_same_names_in_two_files(w: World) -> dict[str, str]:
    second = w.part("a", "second")
    second["users"][0]["user"] = {"token": "second", "as": "jane"}
    return w.files({"one": w.part("a", "first"), "two": {**second, "current-context": "a"}})


@shape
def parts_in_three_files(w: World) -> dict[str, str]:
    whole = w.part("a", "parts")
    return w.files(
        {
            "contexts": {"contexts": whole["contexts"], "current-context": "a"},
            "deep/users": {"users": [{"name": "a", "user": {"tokenFile": "token"}}]},
            "deep/token": "deep",
            "clusters": {"clusters": whole["clusters"]},
        }
    ) | {"KUBECONFIG": ":".join(str(w.folder / name) for name in ("contexts", "deep/users", "clusters"))}


@shape
def several_files_of_which_some_are_empty_or_gone(w: World) -> dict[str, str]:
    environ = w.files(
        {
            "empty": "",
            "words": "# nothing here yet\n",
            "mark": "---\n",
            "two": w.part("a", "t", **{"current-context": "a"}),
        }
    )
    return {"KUBECONFIG": f":{w.folder / 'gone'}::{environ['KUBECONFIG']}:"}


@shape
def several_files_of_which_one_is_broken(w: World) -> dict[str, str]:
    return w.files({"one": w.part("a", "t", **{"current-context": "a"}), "broken": "a: ["})


@shape
def a_file_that_is_a_folder(w: World) -> dict[str, str]:
    environ = w.files({"one": w.part("a", "t", **{"current-context": "a"})})
    return {"KUBECONFIG": f"{environ['KUBECONFIG']}:{w.bin}"}


@shape
def the_same_file_twice(w: World) -> dict[str, str]:
    environ = w.files({"one": w.part("a", "t", **{"current-context": "a"})})
    return {"KUBECONFIG": f"{environ['KUBECONFIG']}:{environ['KUBECONFIG']}"}


@shape
def a_name_twice_in_one_file(w: World) -> dict[str, str]:
    document = w.part("a", "first", **{"current-context": "a"})
    document["users"].append({"name": "a", "user": {"token": "second"}})
    return w.files({"config": document})


@shape
def no_current_context(w: World) -> dict[str, str]:
    return w.files({"config": w.part("a", "t")})


@shape
def a_current_context_that_is_gone(w: World) -> dict[str, str]:
    return w.files({"config": w.part("a", "t", **{"current-context": "b"})})


@shape
def a_context_without_a_cluster(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, context={"cluster": ""})


@shape
def a_context_of_a_cluster_that_is_gone(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, context={"cluster": "gone"})


@shape
def odd_names(w: World) -> dict[str, str]:
    name = 'ada@"Größe": [a/b] \N{SNOWMAN} #1'
    return w.files({"config": w.part(name, "odd", **{"current-context": name})})


@shape
def names_like_other_types(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("NAME", "t", **{"current-context": "NAME"}))
    return w.files({"config": document.replace("NAME", "12:30:45")})


@shape
def a_name_that_is_a_number(w: World) -> dict[str, str]:
    document = yaml.safe_dump(w.part("NAME", "t", **{"current-context": "NAME"}))
    return w.files({"config": document.replace("NAME", "007")})


@shape
def json_instead_of_yaml(w: World) -> dict[str, str]:
    return w.files({"config": json.dumps(w.part("a", "json", **{"current-context": "a"}), indent=2)})


@shape
def anchors(w: World) -> dict[str, str]:
    return w.files(
        {
            "config": f"""\
current-context: a
contexts: [{{name: a, context: {{cluster: a, user: a}}}}]
clusters:
- {{name: b, cluster: &c {{server: "{w.recorder.tls}", certificate-authority-data: {data(w.pems.ca)}}}}}
- {{name: a, cluster: {{<<: *c}}}}
users: [{{name: a, user: &u {{token: anchored}}}}, {{name: b, user: *u}}]
"""
        }
    )


@shape
def two_documents_in_a_file(w: World) -> dict[str, str]:
    first = yaml.safe_dump(w.part("a", "first", **{"current-context": "a"}))
    return w.files({"config": f"{first}---\ncurrent-context: b\n"})


@shape
def keys_that_nobody_knows(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a", "colour": "green"})
    document["users"][0]["user"]["shoe-size"] = 43
    return w.files({"config": document})


@shape
def another_kind_of_file(w: World) -> dict[str, str]:
    return w.files({"config": w.part("a", "t", kind="Pod", apiVersion="v1", **{"current-context": "a"})})


@shape
def a_list_instead_of_a_mapping(w: World) -> dict[str, str]:
    return w.files({"config": "[]\n"})


@shape
def a_context_that_is_no_mapping(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"}) | {"contexts": [7]}
    return w.files({"config": document})


# Proxies


@shape
def a_proxy_of_the_file(w: World) -> dict[str, str]:
    return w.one(
        {"token": "t"}, server=FAR, proxy_url=w.recorder.proxy, tls_server_name="kubernetes.default.svc"
    )


@shape
def a_proxy_of_the_file_to_this_machine(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, proxy_url=w.recorder.proxy)


@shape
def a_proxy_of_the_file_with_a_password(w: World) -> dict[str, str]:
    proxy = w.recorder.proxy.replace("http://", "http://ada:p%40ss@")
    return w.one(
        {"token": "t"},
        server=FAR,
        proxy_url=proxy,
        insecure_skip_tls_verify=True,
        certificate_authority_data=None,
    )


@shape
def a_proxy_of_the_file_over_tls(w: World) -> dict[str, str]:
    proxy = f"https://127.0.0.1:{w.recorder.ports['tls proxy']}"
    return w.one(
        {"token": "t"}, server=f"https://kubernetes.default.svc:{w.recorder.ports['tls']}", proxy_url=proxy
    )


@shape
def plain_http_through_a_proxy_with_a_password(w: World) -> dict[str, str]:
    return w.one({}, server=FAR_PLAIN, proxy_url=w.recorder.proxy.replace("http://", "http://ada:secret@"))


@shape
def a_proxy_of_the_file_before_that_of_the_environment(w: World) -> dict[str, str]:
    environ = w.one({"token": "t"}, server="https://kubernetes.default.svc:6443", proxy_url=w.recorder.proxy)
    return environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}


@shape
def a_proxy_that_is_away(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, proxy_url="http://127.0.0.1:1")


@shape
def a_proxy_without_a_scheme_in_the_file(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, proxy_url=w.recorder.proxy.removeprefix("http://"))


@shape
def a_proxy_of_a_scheme_that_is_none(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, proxy_url="ftp://127.0.0.1:1")


@shape
def a_socks_proxy(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, proxy_url="socks5://127.0.0.1:1")


def through(w: World, server: str = "https://kubernetes.default.svc:6443", **environ: str) -> dict[str, str]:
    return w.one({"token": "t"}, server=server) | {"HTTPS_PROXY": w.recorder.proxy, **environ}


@shape
def a_proxy_of_the_environment(w: World) -> dict[str, str]:
    return through(w)


@shape
def a_proxy_of_the_environment_in_small_letters(w: World) -> dict[str, str]:
    environ = through(w)
    return {**environ, "https_proxy": environ.pop("HTTPS_PROXY")}


@shape
def a_proxy_of_the_environment_without_a_scheme(w: World) -> dict[str, str]:
    return through(w, HTTPS_PROXY=w.recorder.proxy.removeprefix("http://"))


@shape
def a_proxy_of_the_environment_with_a_password(w: World) -> dict[str, str]:
    return through(w, HTTPS_PROXY=w.recorder.proxy.replace("http://", "http://ada:secret@"))


@shape
def a_proxy_for_plain_http_only(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=FAR_PLAIN) | {"HTTP_PROXY": w.recorder.proxy}


@shape
def a_proxy_for_everything(w: World) -> dict[str, str]:
    return w.one({"token": "t"}) | {"ALL_PROXY": w.recorder.proxy}


@shape
def a_default_port_through_a_proxy(w: World) -> dict[str, str]:
    return through(w, "https://kubernetes.default.svc")


@shape
def a_default_port_that_is_named(w: World) -> dict[str, str]:
    return through(w, "https://kubernetes.default.svc:443")


@shape
def this_machine_through_no_proxy(w: World) -> dict[str, str]:
    return through(w, w.recorder.tls)


@shape
def localhost_through_no_proxy(w: World) -> dict[str, str]:
    server = w.recorder.plain.replace("127.0.0.1", "localhost")
    return w.one({}, server=server) | {"HTTP_PROXY": w.recorder.proxy}


def excepted(no_proxy: str, host: str) -> Shape:
    """A server in plain HTTP, a proxy, and NO_PROXY."""

    def make(w: World) -> dict[str, str]:
        environ = w.one({}, server=f"http://{host}:{w.recorder.ports['plain']}")
        port = str(w.recorder.ports["plain"])
        return environ | {"HTTP_PROXY": w.recorder.proxy, "NO_PROXY": no_proxy.replace("PORT", port)}

    return make


# A name that exists nowhere (RFC 6761): it can be asked for through the proxy only.
NOWHERE = "api.invalid"
# This machine, by an address that counts as no loopback.
HERE = "0.0.0.0"
for label, no_proxy, host in (
    ("a name", "api.invalid", NOWHERE),
    ("a domain", "invalid", NOWHERE),
    ("a domain with a dot", ".invalid", NOWHERE),
    ("a name with a dot", ".api.invalid", NOWHERE),
    ("a star and a domain", "*.invalid", NOWHERE),
    ("a star and a name", "*.api.invalid", NOWHERE),
    ("a part of a name", "pi.invalid", NOWHERE),
    ("a name in capitals", "API.Invalid", NOWHERE),
    ("a name with this port", "api.invalid:PORT", NOWHERE),
    ("a domain with this port", ".invalid:PORT", NOWHERE),
    ("a name with another port", "api.invalid:1", NOWHERE),
    ("everything", "*", NOWHERE),
    ("everything among others", "example.org,*", NOWHERE),
    ("a list with blanks", "example.org , api.invalid", NOWHERE),
    ("a list without commas", "example.org api.invalid", NOWHERE),
    ("nothing", " , ", NOWHERE),
    ("an address", "0.0.0.0", HERE),
    ("a range", "10.0.0.0/8,0.0.0.0/8", HERE),
    ("a range that is written oddly", "0.0.0.9/8", HERE),
    ("the range of all", "0.0.0.0/0", HERE),
    ("an address with this port", "0.0.0.0:PORT", HERE),
    ("an address with another port", "0.0.0.0:1", HERE),
    ("another range", "10.0.0.0/8,192.168.0.0/16", HERE),
    ("another address", "0.0.0.1", HERE),
    ("the end of an address", "0.0", HERE),
    ("the beginning of an address", "0.", HERE),
    ("a range of IPv6", "::/0", HERE),
    ("a name for an address", "example.org", HERE),
    ("nonsense", "[,]:x,//,a/b,:::", HERE),
    ("an address of IPv6", "[::]", "[::]"),
    ("another range for IPv6", "10.0.0.0/8,fd00::/8", "[::]"),
):
    SHAPES[f"NO_PROXY with {label}"] = excepted(no_proxy, host)


# Credential plug-ins


def plugged(w: World, **section: Any) -> dict[str, str]:
    return w.one({"exec": {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never", **section}})


@shape
def a_plug_in(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    return plugged(w, args=["--for", "a b"], env=[{"name": "REGION", "value": "north"}])


@shape
def a_plug_in_that_is_told_of_the_cluster(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    section = {
        "apiVersion": V1,
        "command": "sign-in",
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": True,
    }
    config = {
        "apiVersion": "shop.example/v1",
        "audience": "shop",
        "count": 3,
        "deep": {"list": [1, True, "x"]},
    }
    return w.one(
        {"exec": section},
        tls_server_name="kubernetes.default.svc",
        proxy_url=w.recorder.proxy,
        extensions=[
            {"name": "other", "extension": {"a": 1}},
            {"name": "client.authentication.k8s.io/exec", "extension": config},
        ],
    )


@shape
def a_plug_in_that_is_told_of_an_authority_in_a_file(w: World) -> dict[str, str]:
    w.plugin("sign-in", version=BETA, token="plugged")
    w.write("ca.crt", w.pems.ca)
    section = {"apiVersion": BETA, "command": "sign-in", "provideClusterInfo": True}
    return w.one(
        {"exec": section},
        certificate_authority_data=None,
        certificate_authority="ca.crt",
        server=f"{w.recorder.tls}/k8s/",
    )


@shape
def a_plug_in_that_is_told_of_no_check(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    section = {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never", "provideClusterInfo": True}
    return w.one({"exec": section}, certificate_authority_data=None, insecure_skip_tls_verify=True)


@shape
def a_plug_in_with_a_certificate(w: World) -> dict[str, str]:
    w.plugin("sign-in", clientCertificateData=w.pems.ada, clientKeyData=w.pems.ada_key)
    return plugged(w)


@shape
def a_plug_in_with_a_certificate_and_a_token(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="both", clientCertificateData=w.pems.ada, clientKeyData=w.pems.ada_key)
    return plugged(w)


@shape
def a_plug_in_and_a_token(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    section = {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never"}
    return w.one({"exec": section, "token": "direct"})


@shape
def a_plug_in_and_a_password(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    section = {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never"}
    return w.one({"exec": section, "username": "ada", "password": "secret"})


@shape
def a_plug_in_and_impersonation(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="plugged")
    section = {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never"}
    return w.one({"exec": section, "as": "jane"})


@shape
def a_plug_in_beside_the_file(w: World) -> dict[str, str]:
    w.plugin("sign-in", "tools", token="beside")
    return plugged(w, command="./tools/sign-in")


@shape
def a_plug_in_by_its_path(w: World) -> dict[str, str]:
    return plugged(w, command=str(w.plugin("sign-in", "tools", token="by path")))


@shape
def a_plug_in_that_is_not_installed(w: World) -> dict[str, str]:
    return plugged(w, command="no-such-plug-in")


@shape
def a_plug_in_that_fails(w: World) -> dict[str, str]:
    w.write("bin/sign-in", "#!/bin/sh\necho sign in first >&2\nexit 7\n").chmod(0o755)
    return plugged(w)


@shape
def a_plug_in_that_prints_no_json(w: World) -> dict[str, str]:
    w.write("bin/sign-in", "#!/bin/sh\necho hello\n").chmod(0o755)
    return plugged(w)


@shape
def a_plug_in_of_another_version_than_it_prints(w: World) -> dict[str, str]:
    w.plugin("sign-in", version=BETA, token="plugged")
    return plugged(w)


@shape
def a_plug_in_that_prints_no_kind(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    w.write("bin/sign-in.answer", json.dumps({"apiVersion": V1, "status": {"token": "t"}}))
    return plugged(w)


@shape
def a_plug_in_that_gives_nothing(w: World) -> dict[str, str]:
    w.plugin("sign-in")
    return plugged(w)


@shape
def a_plug_in_that_gives_half_a_certificate(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t", clientCertificateData=w.pems.ada)
    return plugged(w)


@shape
def a_plug_in_whose_token_has_run_out(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="stale", expirationTimestamp="2020-01-01T00:00:00Z")
    return plugged(w)


@shape
def a_plug_in_with_odd_time(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="odd", expirationTimestamp="2099-01-01T00:00:00.123456789+05:30")
    return plugged(w)


@shape
def a_plug_in_of_v1alpha1(w: World) -> dict[str, str]:
    version = "client.authentication.k8s.io/v1alpha1"
    w.plugin("sign-in", version=version, token="t")
    return plugged(w, apiVersion=version)


@shape
def a_plug_in_without_a_version(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, apiVersion=None)


@shape
def a_plug_in_without_a_command(w: World) -> dict[str, str]:
    return plugged(w, command="")


@shape
def a_plug_in_of_v1_that_names_no_mode(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, interactiveMode=None)


@shape
def a_plug_in_that_needs_a_terminal(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, interactiveMode="Always")


@shape
def a_plug_in_of_a_mode_that_is_none(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, interactiveMode="Sometimes")


@shape
def a_plug_in_and_an_auth_provider(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    section = {"apiVersion": V1, "command": "sign-in", "interactiveMode": "Never"}
    token = jwt(sub="ada", exp=int(time.time()) + 3600)
    config = {"client-id": "x", "idp-issuer-url": "https://id.shop.example", "id-token": token}
    return w.one({"exec": section, "auth-provider": {"name": "oidc", "config": config}})


@shape
def a_plug_in_with_a_variable_without_a_name(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, env=[{"value": "north"}])


@shape
def a_mark_of_the_order_of_bytes(w: World) -> dict[str, str]:
    return w.files({"config": "\ufeff" + yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))})


@shape
def utf_16_as_powershell_writes_it(w: World) -> dict[str, str]:
    text = yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))
    (w.folder / "config").write_bytes(text.encode("utf-16"))
    return {"KUBECONFIG": str(w.folder / "config")}


@shape
def latin_1(w: World) -> dict[str, str]:
    text = "# größe\n" + yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))
    (w.folder / "config").write_bytes(text.encode("latin-1"))
    return {"KUBECONFIG": str(w.folder / "config")}


@shape
def lines_that_end_as_on_windows(w: World) -> dict[str, str]:
    text = yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))
    (w.folder / "config").write_bytes(text.replace("\n", "\r\n").encode())
    return {"KUBECONFIG": str(w.folder / "config")}


@shape
def a_key_twice(w: World) -> dict[str, str]:
    text = yaml.safe_dump(w.part("a", "TOKEN", **{"current-context": "a"}))
    return w.files({"config": text.replace("token: TOKEN", "token: first\n    token: second")})


@shape
def lists_that_are_null(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"})
    return w.files({"first": {"users": None, "contexts": None, "current-context": None}, "second": document})


@shape
def entries_without_a_name(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"})
    document["users"].insert(0, {"user": {"token": "unnamed"}})
    return w.files({"config": document})


@shape
def entries_of_the_wrong_list(w: World) -> dict[str, str]:
    document = w.part("a", "t", **{"current-context": "a"})
    document["users"][0]["cluster"] = {"server": "http://127.0.0.1:1"}
    return w.files({"config": document})


@shape
def capitals_in_keys(w: World) -> dict[str, str]:
    text = yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))
    return w.files({"config": text.replace("token:", "Token:")})


@shape
def a_token_with_a_newline(w: World) -> dict[str, str]:
    return w.one({"token": "t\n"})


@shape
def a_token_with_blanks_in_it(w: World) -> dict[str, str]:
    return w.one({"token": " a  b "})


@shape
def a_truth_value_in_other_words(w: World) -> dict[str, str]:
    text = yaml.safe_dump(w.part("a", "t", **{"current-context": "a"}))
    start = text.index("    certificate-authority-data")
    return w.files(
        {"config": f"{text[:start]}    insecure-skip-tls-verify: yes\n{text[text.index('    server') :]}"}
    )


@shape
def a_path_and_data_that_is_empty(w: World) -> dict[str, str]:
    path = w.write("ca.crt", w.pems.ca)
    return w.one({"token": "t"}, certificate_authority_data="", certificate_authority=str(path))


@shape
def a_certificate_and_its_key_in_one_file(w: World) -> dict[str, str]:
    path = str(w.write("ada.pem", f"{w.pems.ada_key}\n{w.pems.ada}"))
    return w.one({"client-certificate": path, "client-key": path})


@shape
def a_key_of_another_certificate(w: World) -> dict[str, str]:
    return w.one({"client-certificate-data": data(w.pems.ada), "client-key-data": data(w.pems.other_key)})


@shape
def certificates_that_end_as_on_windows(w: World) -> dict[str, str]:
    user = {
        "client-certificate-data": data(w.pems.ada.replace("\n", "\r\n")),
        "client-key-data": data(w.pems.ada_key.replace("\n", "\r\n")),
    }
    return w.one(user, certificate_authority_data=data(w.pems.ca.replace("\n", "\r\n")))


@shape
def a_scheme_in_capitals(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=w.recorder.tls.replace("https", "HTTPS"), **w.ca)


@shape
def a_name_in_capitals(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server="https://Kubernetes.Default.SVC:6443", proxy_url=w.recorder.proxy)


@shape
def a_name_beyond_ascii(w: World) -> dict[str, str]:
    return w.one(
        {"token": "t"},
        server="https://größe.example:6443",
        proxy_url=w.recorder.proxy,
        tls_server_name="kubernetes.default.svc",
    )


@shape
def a_name_with_a_dot_at_its_end(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server="https://kubernetes.default.svc.:6443", proxy_url=w.recorder.proxy)


@shape
def an_address_of_ipv6(w: World) -> dict[str, str]:
    return w.one(
        {"token": "t"},
        server="https://[fd00::7]:6443",
        proxy_url=w.recorder.proxy,
        tls_server_name="kubernetes.default.svc",
    )


@shape
def a_server_with_a_query(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/?a=b")


@shape
def a_path_with_blanks(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}/a%20b")


@shape
def a_double_slash_at_the_end(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f"{w.recorder.tls}//")


@shape
def a_server_with_blanks_around_it(w: World) -> dict[str, str]:
    return w.one({"token": "t"}, server=f" {w.recorder.tls} ", **w.ca)


@shape
def a_user_name_beyond_ascii(w: World) -> dict[str, str]:
    return w.one({"token": "t", "as": "jürgen", "as-groups": ["größe", ""]})


@shape
def a_plug_in_with_numbers(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, args=[1, 2])


@shape
def a_plug_in_with_a_variable_without_a_value(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, env=[{"name": "REGION"}])


@shape
def a_plug_in_with_a_variable_that_is_a_number(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t")
    return plugged(w, env=[{"name": "REGION", "value": 7}])


@shape
def a_plug_in_with_another_path(w: World) -> dict[str, str]:
    w.plugin("sign-in", "tools", token="t")
    return plugged(w, env=[{"name": "PATH", "value": f"{w.folder / 'tools'}:/usr/bin:/bin"}])


@shape
def a_plug_in_whose_token_is_a_number(w: World) -> dict[str, str]:
    w.plugin("sign-in", token=7)
    return plugged(w)


@shape
def a_plug_in_whose_token_has_a_newline(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t\n")
    return plugged(w)


@shape
def a_plug_in_that_says_when_in_another_way(w: World) -> dict[str, str]:
    w.plugin("sign-in", token="t", expirationTimestamp="tomorrow")
    return plugged(w)


@shape
def a_plug_in_that_is_no_program(w: World) -> dict[str, str]:
    w.write("bin/sign-in", "hello")
    return plugged(w)


@shape
def a_netrc_beside_a_token(w: World) -> dict[str, str]:
    w.write(".netrc", "default login eve password secret\n").chmod(0o600)
    return w.one({"token": "t"})


@shape
def a_netrc_and_nobody(w: World) -> dict[str, str]:
    path = w.write(".netrc", "default login eve password secret\n")
    path.chmod(0o600)
    return w.one({}) | {"NETRC": str(path)}
