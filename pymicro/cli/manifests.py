"""What a service needs to run on Kubernetes, as the text of its manifests.

The text is in data/manifests, with comments for the people who maintain the manifests. `deploy/`
applies the same files. A file that ends in `.template` has values to fill in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from pymicro.base.durations import format_duration
from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.cli.manifests_tls import CertificateSource
from pymicro.cli.manifests_tls import scalar as _scalar
from pymicro.nodes.keys import METADATA_PREFIX, label_problem, san, selector_key
from pymicro.nodes.wellknown import ADMIN_PORT, KEEPALIVE, TLS, TLS_HERE

__all__ = ["DEFAULT_ADMIN_PORT", "DEFAULT_PORT", "Deployed", "render"]

_MANIFESTS = Path(__file__).with_name("data") / "manifests"
# What a pod needs that writes its own record: the role, and what limits it.
_SELF_REGISTER = "rbac-self-register/role.yaml"
# A policy belongs to the whole cluster, so it has no namespace.
_POLICIES = (
    "rbac-self-register/admission-policy.yaml",
    "rbac-self-register/admission-policy-unmarked.yaml",
)
# `namespace:` goes after these: an object's name, and the name of the account to which a role is bound.
_NAMES = re.compile(r"^(?:metadata:|  - kind: ServiceAccount)\n( +)name: .*", re.MULTILINE)

# The port that a Service listens on in a pod, and that static callers expect.
DEFAULT_PORT = 8080
# The port on which it tells in a pod how it fares (`pymicro.runtime.admin_port`).
DEFAULT_ADMIN_PORT = 9464

# For the NetworkPolicy.
_ADMIN_INGRESS = """
    # Prometheus is in a namespace of its own, as a rule.
    - from:
        - namespaceSelector: {}
      ports:
        - port: admin
          protocol: TCP"""
_TLS_INGRESS = """
        - port: tls
          protocol: TCP"""

# Seconds between the end of the grace and the SIGKILL.
_SPARE = 5.0

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A service and how to run it.

    Attributes:
        service: The name under which it registers.
        version: Its version.
        target: The argument of `pymicro run`, below /app in the image.
        mode: `labels`: others find it by the labels of its pod template. `patch`: it
            registers itself, as go-micro's services do.
        image: The container's image; the service's name and version if empty.
        replicas: Number of pods.
        namespace: The namespace of every object that has one; left out if empty.
        port: The port it listens on, and clients call; with certificates, the one that speaks TLS.
        listen: Whether it must be told to listen on all addresses of the pod at
            `port`, because it would not do so by itself.
        drain_delay: Seconds between leaving the registry and stopping.
        stop_grace: Seconds that calls have to finish.
        calls: Whether it calls other services, so that it may look for them.
        keepalive: What its node says of pings (`pymicro.nodes.wellknown`); nothing if empty.
        admin_port: Its admin port, which probes ask and Prometheus scrapes; 0 if it has none.
        tls: Where its pods get certificates; None if they get none here.
        said_tls: What its node says of TLS (`pymicro.nodes.wellknown`) where its code names the
            certificates; nothing if empty.

    Raises:
        ConfigError: Kubernetes does not accept a name, version or namespace, or something that
            certificates need is missing.
    """

    service: str
    version: str
    target: str
    mode: Literal["labels", "patch"] = "labels"
    image: str = ""
    replicas: int = 3
    namespace: str = ""
    port: int = DEFAULT_PORT
    listen: bool = False
    drain_delay: float = 5.0
    stop_grace: float = 20.0
    calls: bool = False
    keepalive: str = ""
    admin_port: int = DEFAULT_ADMIN_PORT
    tls: CertificateSource | None = None
    said_tls: str = ""

    def __post_init__(self) -> None:
        if problem := label_problem(self.service):
            raise ConfigError(f"{problem}: rename the service")
        if not _LABEL_VALUE.fullmatch(self.version):
            raise ConfigError(
                f"version {excerpt(self.version)} cannot be a label (at most 63 letters, digits, - _ and ., "
                "with a letter or digit at both ends): change the service's version"
            )
        if self.namespace and not _DNS_LABEL.fullmatch(self.namespace):
            raise ConfigError(
                f"{excerpt(self.namespace)} is no namespace (at most 63 small letters, digits and -, "
                "with a letter or digit at both ends)"
            )
        if self.tls is not None:
            self._check_tls(self.tls)

    def _check_tls(self, tls: CertificateSource) -> None:
        if tls.plain_port == self.port:
            raise ConfigError(
                f"port {self.port} would speak TLS and plain text: --port says where it speaks TLS, "
                "and --plain-port where it speaks plain text"
            )
        if tls.way == "cert-manager" and not self.namespace:
            raise ConfigError("--tls cert-manager wants --namespace: it is part of the certificate's names")
        if not self.admin_port and not tls.plain_port:
            raise ConfigError(
                "the service has no admin port (admin_address), and the kubelet's probes of health speak no "
                "TLS: give it one"
            )

    @property
    def call_port(self) -> int:
        """The port by which clients know it, as long as some have no certificates."""
        return (self.tls.plain_port if self.tls is not None else 0) or self.port

    @property
    def account(self) -> str:
        """The service account of its pods; empty for the namespace's."""
        if self.mode == "patch" or self.tls is not None:
            return self.object
        return "pymicro-client" if self.calls else ""

    @property
    def object(self) -> str:
        """The name of its Deployment, container and account: `go-micro-srv-greeter`."""
        # At least one letter or digit remains: a label ends in one.
        return re.sub(r"[^a-z0-9]+", "-", san(self.service).lower()).strip("-")

    @property
    def app(self) -> str:
        """The label `app.kubernetes.io/name`: the service's name, if that is valid there."""
        name = san(self.service)
        return name if _LABEL_VALUE.fullmatch(name) else self.object


def render(deployed: Deployed) -> str:
    """All manifests, as one stream of YAML documents."""
    files = ["rbac/discovery.yaml"]
    if deployed.mode == "patch":
        files += [_SELF_REGISTER, *_POLICIES, "self-register-account.yaml.template"]
    elif deployed.tls is not None:
        files.append("account.yaml.template")
        if deployed.calls:
            files.append("account-calls.yaml.template")
    if deployed.tls is not None and deployed.tls.way == "cert-manager":
        files.append("certificate.yaml.template")
    files.append("deployment.yaml.template")
    if deployed.replicas > 1:
        files.append("disruption-budget.yaml.template")
    files.append("network-policy.yaml.template")
    return "---\n".join(_manifest(file, deployed) for file in files)


def _manifest(file: str, deployed: Deployed) -> str:
    text = (_MANIFESTS / file).read_text(encoding="utf-8")
    if file.endswith(".template"):
        text = Template(text).substitute(_values(deployed))
    if deployed.namespace and file not in _POLICIES:
        text = _NAMES.sub(rf"\g<0>\n\g<1>namespace: {_scalar(deployed.namespace)}", text)
    return text


def _values(deployed: Deployed) -> dict[str, str | int]:
    grace = deployed.drain_delay + deployed.stop_grace + _SPARE
    tls = deployed.tls
    env = {"MICRO_SERVER_ADDRESS": f"0.0.0.0:{deployed.port}"} if deployed.listen else {}
    if tls is not None:
        env = tls.environment(deployed.port)
    return {
        "object": _scalar(deployed.object),
        "binding": _scalar(f"{deployed.object}-self-register"),
        "app": _scalar(deployed.app),
        "version": _scalar(deployed.version),
        "replicas": deployed.replicas,
        "pod_metadata": _pod_metadata(deployed),
        "account": _account(deployed),
        "drain_delay": format_duration(deployed.drain_delay),
        "stop_grace": format_duration(deployed.stop_grace),
        "grace": -int(-grace // 1),  # rounded up
        "image": _scalar(deployed.image or f"{deployed.object}:{deployed.version}"),
        "target": _scalar(deployed.target),
        "mode": deployed.mode,
        "more_env": _env(env),
        "port": deployed.call_port,
        "more_ports": _more_ports(deployed),
        "startup": _probe(deployed, "/startupz", "liveness"),
        "readiness": _probe(deployed, "/readyz"),
        "liveness": _probe(deployed, "/livez", "liveness"),
        "tls_ingress": _TLS_INGRESS if tls is not None and tls.plain_port else "",
        "more_ingress": _ADMIN_INGRESS if deployed.admin_port else "",
        "more_mounts": _more(tls.mount(), 12) if tls is not None else "",
        "more_volumes": _more(tls.volume(deployed.object), 8) if tls is not None else "",
        **(_certificate(deployed, tls) if tls is not None else {}),
    }


def _certificate(deployed: Deployed, tls: CertificateSource) -> dict[str, str]:
    """For cert-manager's Certificate, and the account's binding."""
    kind, name = tls.issuer
    namespace = deployed.namespace
    return {
        "calls_binding": _scalar(f"{deployed.object}-discovery"),
        "secret": _scalar(tls.secret(deployed.object)),
        "issuer_kind": _scalar(kind),
        "issuer": _scalar(name),
        "service": _scalar(deployed.service),
        "service_host": _scalar(f"{deployed.service}.{namespace}.svc"),
        "spiffe": _scalar(f"spiffe://cluster.local/ns/{namespace}/sa/{deployed.account}"),
    }


def _pod_metadata(deployed: Deployed) -> str:
    lines = [
        "labels:",
        f"  app.kubernetes.io/name: {_scalar(deployed.app)}",
        "  # The node's version.",
        f"  app.kubernetes.io/version: {_scalar(deployed.version)}",
    ]
    if deployed.mode == "labels":
        lines += [
            "  # What clients look for.",
            "  micro.mu/type: service",
            f"  {_scalar(selector_key(deployed.service))}: service",
        ]
        said_tls = deployed.said_tls
        if deployed.tls is not None:
            said_tls = str(deployed.port) if deployed.tls.plain_port else TLS_HERE
        if deployed.keepalive or deployed.admin_port or said_tls:
            lines.append("annotations:")
        if deployed.keepalive:
            lines += [
                "  # How often a client may ping it.",
                f"  {METADATA_PREFIX}{KEEPALIVE}: {_scalar(deployed.keepalive)}",
            ]
        if deployed.admin_port:
            lines += [
                "  # Where `pymicro top` asks it.",
                f"  {METADATA_PREFIX}{ADMIN_PORT}: {_scalar(str(deployed.admin_port))}",
            ]
        if said_tls:
            lines += ["  # Where it speaks TLS.", f"  {METADATA_PREFIX}{TLS}: {_scalar(said_tls)}"]
    else:
        lines += [
            "annotations:",
            "  # The service that the admission policy lets it register.",
            f"  micro.mu/self-register: {_scalar(san(deployed.service))}",
        ]
    return _indented(lines)


def _account(deployed: Deployed) -> str:
    if deployed.mode == "patch":
        lines = ["# May patch its own pod.", f"serviceAccountName: {_scalar(deployed.account)}"]
    elif deployed.calls:
        lines = [
            "# May list and watch pods, to find the services it calls.",
            f"serviceAccountName: {_scalar(deployed.account)}",
        ]
    else:
        lines = [f"serviceAccountName: {_scalar(deployed.account)}"] if deployed.account else []
        lines += [
            "# Found by its labels, it never speaks to the API server.",
            "automountServiceAccountToken: false",
        ]
    return _indented(lines)


def _indented(lines: list[str]) -> str:
    return "\n".join(f"      {line}" for line in lines)


def _more(lines: list[str], pad: int) -> str:
    """Lines that follow others, `pad` blanks deep."""
    return "".join(f"\n{' ' * pad}{line}" for line in lines)


def _env(variables: Mapping[str, str]) -> str:
    lines = [(f"- name: {name}", f"  value: {_scalar(value)}") for name, value in variables.items()]
    return _more([line for pair in lines for line in pair], 12)


def _more_ports(deployed: Deployed) -> str:
    lines = []
    if deployed.tls is not None and deployed.tls.plain_port:
        lines += [
            "# The port above is plain text, for callers that have no certificates yet.",
            "- name: tls",
            f"  containerPort: {deployed.port}",
        ]
    if deployed.admin_port:
        lines += [
            "# For probes, Prometheus and `pymicro top`.",
            "- name: admin",
            f"  containerPort: {deployed.admin_port}",
        ]
    return _more(lines, 12)


def _probe(deployed: Deployed, path: str, service: str = "") -> str:
    """What a probe asks.

    Args:
        path: On the admin port.
        service: The name for grpc.health.v1 where there is no admin port; empty for none.
    """
    if deployed.admin_port:
        lines = ["httpGet:", f"  path: {path}", f"  port: {deployed.admin_port}"]
    else:
        lines = ["grpc:", f"  port: {deployed.call_port}", *([f"  service: {service}"] if service else [])]
    return "\n".join(f"            {line}" for line in lines)
