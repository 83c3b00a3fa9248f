"""A kubelet for tests: it makes the pods of a real API server real processes on this machine.

    python -m tests.cluster.kubelet --kubeconfig FILE --node-ip IP --folder DIR --image NAME=DIR

It is scheduler, kubelet, container runtime, kube-proxy and cluster DNS of one node, each as small as the
tests and `deploy/` allow. It needs root, Linux and iproute2, and runs inside a network namespace that is the
node (`nsenter --net=…`). A pod is a network namespace with an address of its own; a container is one process
with process ids, mounts and a host name of its own, running this checkout's code under this Python.

Nothing has a name outside: namespaces live as long as something holds them open, and whatever was started
is killed by the kernel when its parent ends. So nothing is left behind, however the tests end.

Left out: init containers, limits of resources, seccomp, exec and HTTP probes, volumes other than `emptyDir`,
`secret` and `projected` (of which it has no `podCertificate` and no `clusterTrustBundle`), `kubectl logs`
and `exec` (a container's output is a file in the folder).
"""
