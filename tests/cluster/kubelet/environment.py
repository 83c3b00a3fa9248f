"""A container's environment variables."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.cluster.kubelet.api import Object


def field(pod: Object, path: str) -> str:
    """A value of the downward API.

    Raises:
        KeyError: There is no such field, or it is not known to this kubelet.
    """
    meta, status = pod["metadata"], pod["status"]
    plain = {
        "metadata.name": lambda: meta["name"],
        "metadata.namespace": lambda: meta["namespace"],
        "metadata.uid": lambda: meta["uid"],
        "spec.nodeName": lambda: pod["spec"]["nodeName"],
        "spec.serviceAccountName": lambda: pod["spec"].get("serviceAccountName", "default"),
        "status.podIP": lambda: status["podIP"],
        "status.podIPs": lambda: ",".join(entry["ip"] for entry in status["podIPs"]),
        "status.hostIP": lambda: status["hostIP"],
    }
    if path in plain:
        return str(plain[path]())
    for kind in ("labels", "annotations"):
        if path.startswith(f"metadata.{kind}['"):
            return str(meta.get(kind, {}).get(path.split("'")[1], ""))
    raise KeyError(path)


def environment(pod: Object, container: Object, server: str, image: dict[str, str]) -> dict[str, str]:
    """What a container's process gets; `pod` must carry its addresses in `status`.

    Args:
        pod: Where the downward API looks.
        container: One of its `spec.containers`.
        server: The API server's URL.
        image: The image's own variables.
    """
    address = urlsplit(server)
    made = {
        **image,
        "HOSTNAME": pod["metadata"]["name"],
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(address.port),
    }
    for entry in container.get("env", []):
        source = entry.get("valueFrom")
        made[entry["name"]] = (
            entry.get("value", "") if source is None else field(pod, source["fieldRef"]["fieldPath"])
        )
    return made
