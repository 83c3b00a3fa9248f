"""The pod that this process runs in: where it is, and what it already says of itself."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.base.printable import listed
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.pods.reader import PORT, addresses_of, annotations_of, grpc_port, is_of, labels_of
from pymicro.nodes.address import split_address
from pymicro.nodes.keys import SERVICE, TYPE_LABEL, port_key, record_key, selector_key
from pymicro.nodes.node import Node
from pymicro.settings.config import in_pod

__all__ = ["OwnPod", "own_address", "own_pod"]


def own_pod(environ: Mapping[str, str]) -> str:
    """The name of the pod this process runs in; empty outside of one.

    HOSTNAME is the pod's name unless it has hostNetwork or spec.hostname.
    """
    return environ.get("POD_NAME") or (environ.get("HOSTNAME", "") if in_pod(environ) else "")


def own_address(environ: Mapping[str, str]) -> str:
    """The pod's IP: from the downward API, else the address from which we reach the API server."""
    given = environ.get("POD_IP")
    if given:
        return given
    # TEST-NET-1 (RFC 5737): nothing is sent, the kernel only chooses a route.
    target = environ.get("KUBERNETES_SERVICE_HOST") or "192.0.2.1"
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((target, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return "127.0.0.1"


class OwnPod:
    """Looks at our own pod, and says why others would not find a node through it.

    Args:
        environ: The environment of the pod.
        client: The API server; only the methods ask it.
        find: Lists the own pod by namespace and name; returns it if there is one.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        client: Callable[[], KubeClient],
        find: Callable[[str, str], Awaitable[Mapping[str, Any] | None]],
    ) -> None:
        self._environ = environ
        self._client = client
        self._find = find

    def __str__(self) -> str:
        return f"pod {own_pod(self._environ)}"

    async def where(self) -> tuple[str, str]:
        """The namespace and the name of the pod."""
        return (await self._client().find()).namespace, own_pod(self._environ)

    async def read(self) -> Mapping[str, Any]:
        """The pod as the API server has it.

        Raises:
            KubeError: The API server refused or did not answer.
            ConfigError: The API server has no such pod.
        """
        pod = await self._find(*await self.where())
        if pod is None:
            raise self.missing()
        return pod

    async def look(self) -> Mapping[str, Any] | str:
        """The pod, or why we may not look at it: then we rely on its labels, which need no rights.

        Raises:
            KubeError: The API server did not answer.
            ConfigError: The API server has no such pod.
        """
        try:
            await self._client().find()
        except ConfigError as exc:
            return str(exc)  # no service account's token, say
        try:
            return await self.read()
        except KubeError as exc:
            if exc.status != 403:
                raise
            return "pods may not be listed"

    def missing(self) -> ConfigError:
        """The error for a pod that does not exist."""
        namespace = self._client().cluster.namespace
        return ConfigError(
            f"there is no {self} in namespace {namespace}: set POD_NAME and POD_NAMESPACE by the "
            "downward API (HOSTNAME is not the pod's name with hostNetwork or spec.hostname)"
        )

    def check_advertised(self, node: Node) -> None:
        """Check that `node` can belong to this pod, as far as we know that without asking.

        Raises:
            ConfigError: It cannot.
        """
        if not own_pod(self._environ):
            raise ConfigError(
                f"{node.service} runs outside a pod of Kubernetes (POD_NAME is not set), so it cannot be "
                "registered there; --registry-advertise none runs it unregistered"
            )
        host, _ = split_address(node.address)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(
                f"{node.service} advertises {node.address}, and only a pod's own IP counts: "
                "set POD_IP by the downward API, or --server-advertise to the pod's IP"
            ) from None
        if (address.is_loopback or address.is_unspecified) and host != self._environ.get("POD_IP"):
            raise ConfigError(
                f"{node.service} advertises {node.address}, which nobody else can reach: "
                "listen on 0.0.0.0 (--server-address 0.0.0.0:8080)"
            )

    def check_address(self, pod: Mapping[str, Any], node: Node) -> None:
        """Check that `node` advertises an address of the pod.

        Raises:
            ConfigError: It does not.
        """
        addresses = addresses_of(pod)
        # Kubelet writes the addresses a moment after the container has started.
        if addresses and not is_of(node.address, addresses):
            raise ConfigError(
                f"{node.service} advertises {node.address}, which is no address of {self} "
                f"({listed(addresses)}): set POD_IP by the downward API, or --server-advertise"
            )

    def is_labelled(self, pod: Mapping[str, Any], service: str) -> bool:
        """Whether the template's labels say that the pod is one of `service`.

        An earlier process of this pod may have left the label, but then it left its record too.
        """
        labelled = labels_of(pod).get(selector_key(service)) == SERVICE
        return labelled and not annotations_of(pod).get(record_key(service))

    def check_labels(self, pod: Mapping[str, Any], node: Node) -> None:
        """Check that labels, port and address of the pod lead to `node`.

        Raises:
            ConfigError: Nobody would find the node, or nobody would reach it.
        """
        labels = labels_of(pod)
        wanted = {TYPE_LABEL: SERVICE, selector_key(node.service): SERVICE}
        lacking = [f"{key}: {value}" for key, value in wanted.items() if labels.get(key) != value]
        if lacking:
            raise ConfigError(
                f"nobody finds {node.service}: {self} lacks the label "
                f"{' and the label '.join(lacking)} "
                "(registry_advertise is labels; they belong into the pod template)"
            )
        named, (_, port) = grpc_port(pod, node.service), split_address(node.address)
        if named is None:
            raise ConfigError(
                f"nobody finds {node.service}: no container port of {self} is named {PORT}, "
                f"or as the annotation {port_key(node.service)} says (the process listens on {port})"
            )
        if named != port:
            raise ConfigError(
                f"the port named {PORT} of {self} is {named}, "
                f"and {node.service} listens on {port}: nobody would reach it "
                f"(of several ports the annotation {port_key(node.service)} names the right one)"
            )
        self.check_address(pod, node)
