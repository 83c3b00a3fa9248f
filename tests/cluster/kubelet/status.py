"""A pod's `status`, as its kubelet writes it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.cluster.kubelet.api import Object
from tests.cluster.kubelet.container import Container, now


def pod_status(pod: Object, containers: Sequence[Container], *, ip: str, host: str, started: str) -> Object:
    """The status to write.

    Args:
        pod: The object as it is now: conditions of others (readiness gates) are read from it.
        containers: All of its containers.
        ip: The pod's address; empty before there is one.
        host: The node's address.
        started: When the kubelet took the pod.
    """
    ready = bool(containers) and all(container.ready for container in containers)
    given = {condition["type"]: condition for condition in pod["status"].get("conditions", [])}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", [])]
    open_ = all(given.get(gate, {}).get("status") == "True" for gate in gates)
    facts = {
        "PodScheduled": (True, ""),
        "Initialized": (True, ""),
        "ContainersReady": (ready, "ContainersNotReady"),
        "Ready": (ready and open_, "ReadinessGatesNotReady" if ready else "ContainersNotReady"),
    }
    conditions: list[Object] = []
    for kind, (fact, reason) in facts.items():
        condition: Object = {"type": kind, "status": "True" if fact else "False"}
        if not fact:
            condition["reason"] = reason
        old = given.get(kind, {})
        same = old.get("status") == condition["status"]
        condition["lastTransitionTime"] = old["lastTransitionTime"] if same else now()
        conditions.append(condition)
    status: Object = {
        "phase": phase(pod, containers, ip),
        "startTime": started,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "conditions": conditions,
        "containerStatuses": [container.status() for container in containers],
    }
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    return status


def phase(pod: Object, containers: Sequence[Container], ip: str) -> str:
    """The pod's phase: one that is deleted, or never restarted, has ended when all its containers have."""
    final = "deletionTimestamp" in pod["metadata"] or pod["spec"].get("restartPolicy", "Always") != "Always"
    ends = [container.done for container in containers]
    if final and ends and all(end is not None for end in ends):
        return "Succeeded" if all(end is not None and end["exitCode"] == 0 for end in ends) else "Failed"
    # A container that has been started once keeps its pod Running, also between two of its processes.
    begun = ip and containers and all(container.status()["containerID"] for container in containers)
    return "Running" if begun else "Pending"
