"""A Kubernetes cluster as a registry: its API, its objects as nodes, and the two registries."""
