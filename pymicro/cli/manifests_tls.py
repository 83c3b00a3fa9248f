"""Where a service's pods get their certificates on Kubernetes, as parts of its manifests.

Three ways, by who writes the files: cert-manager into a Secret, somebody else into a Secret, or the
kubelet itself (Pod Certificates). The pods see files in one folder each time, and read them again when
they change.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt

__all__ = ["DEFAULT_TLS_PORT", "CertificateSource", "scalar"]

# Where the server speaks TLS, so that the port of plain text keeps its number while callers move over.
DEFAULT_TLS_PORT = 8443

# The folder with the files, in the container.
_FOLDER = "/etc/pymicro/tls"
_BUNDLE, _CA = "bundle.pem", "ca.pem"

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SIGNER = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.:]*")
_ISSUER_KINDS = ("Issuer", "ClusterIssuer")

# Texts that are strings in every version of YAML; y, on and the like are not.
_PLAIN = re.compile(r"[A-Za-z][-A-Za-z0-9_./]*(:[-A-Za-z0-9_./]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateSource:
    """How pods of a service get certificates.

    Attributes:
        way: `cert-manager`: a Certificate is printed, and cert-manager writes the Secret. `secret`:
            somebody else writes it. `podcertificate`: the kubelet asks a signer for each pod.
        source: The issuer (`NAME`, or `ClusterIssuer/NAME`), the Secret (empty for `OBJECT-tls`), or the
            signer.
        plain_port: The port that serves plain text besides, as long as callers move over; 0 for none.

    Raises:
        ConfigError: Kubernetes or cert-manager do not accept the source.
    """

    way: Literal["cert-manager", "podcertificate", "secret"]
    source: str = ""
    plain_port: int = 0

    def __post_init__(self) -> None:
        if self.way == "cert-manager":
            kind, name = self.issuer
            if kind not in _ISSUER_KINDS or not _DNS_SUBDOMAIN.fullmatch(name):
                raise ConfigError(
                    "--tls cert-manager: --tls-from wants the name of an Issuer, or ClusterIssuer/NAME"
                    + (f", and is {excerpt(self.source)}" if self.source else "")
                )
        elif self.way == "podcertificate":
            if not _SIGNER.fullmatch(self.source):
                raise ConfigError(
                    "--tls podcertificate: --tls-from wants the name of a signer, such as "
                    "example.com/workloads" + (f", and is {excerpt(self.source)}" if self.source else "")
                )
        elif self.source and not _DNS_SUBDOMAIN.fullmatch(self.source):
            raise ConfigError(
                f"--tls secret: --tls-from wants the name of a Secret, and is {excerpt(self.source)}"
            )

    @property
    def issuer(self) -> tuple[str, str]:
        """cert-manager's: its kind and name."""
        kind, slash, name = self.source.rpartition("/")
        return (kind if slash else _ISSUER_KINDS[0]), name

    def secret(self, service_object: str) -> str:
        """The name of the Secret."""
        named = self.source if self.way == "secret" else ""
        return named or f"{service_object}-tls"

    def environment(self, port: int) -> dict[str, str]:
        """The container's variables.

        Args:
            port: Where it speaks TLS.
        """
        found = {"MICRO_SERVER_ADDRESS": f"0.0.0.0:{port}"}
        if self.plain_port:
            found["MICRO_TLS_PLAIN_ADDRESS"] = f"0.0.0.0:{self.plain_port}"
        if self.way == "podcertificate":
            found |= {"MICRO_TLS_BUNDLE": f"{_FOLDER}/{_BUNDLE}", "MICRO_TLS_CA": f"{_FOLDER}/{_CA}"}
        else:
            found["MICRO_TLS_DIR"] = _FOLDER
        # What is called in its turn may have no certificate yet, as long as its own callers have none.
        return {**found, "MICRO_CLIENT_TLS": "auto" if self.plain_port else "require"}

    def mount(self) -> list[str]:
        """The container's mount, as lines of YAML; whole, because a file of a subPath never changes."""
        return ["- name: tls", f"  mountPath: {_FOLDER}", "  readOnly: true"]

    def volume(self, service_object: str) -> list[str]:
        """The pod's volume, as lines of YAML."""
        if self.way != "podcertificate":
            return [
                "# tls.crt, tls.key and ca.crt; the kubelet swaps them when the Secret changes.",
                "- name: tls",
                "  secret:",
                f"    secretName: {scalar(self.secret(service_object))}",
            ]
        return [
            "# Kubernetes 1.37; the feature gate PodCertificateRequest from 1.34, and ClusterTrustBundle",
            "# with ClusterTrustBundleProjection. The signer has to put the service's name among the DNS",
            "# names of the certificate: clients check it.",
            "- name: tls",
            "  projected:",
            "    sources:",
            "      - podCertificate:",
            f"          signerName: {scalar(self.source)}",
            "          keyType: ECDSAP256",
            "          # Nothing is revoked, so a stolen key is good for so long.",
            "          maxExpirationSeconds: 86400",
            f"          credentialBundlePath: {_BUNDLE}",
            "      # The authorities that the signer has published, all of them.",
            "      - clusterTrustBundle:",
            f"          signerName: {scalar(self.source)}",
            "          labelSelector: {}",
            f"          path: {_CA}",
        ]


def scalar(text: str) -> str:
    """`text` as a YAML scalar: plain if no reader could take it for anything but a string."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # A JSON string is a YAML one (YAML 1.2, 1.3); escaped, it has no character that YAML forbids.
    return json.dumps(text)
