"""From objects of a cluster to node sets: what the registries kubernetes and endpointslice share.

`table` keeps the nodes of many objects as one set, `watching` is one service's
watch for all who ask, `registry` is what both registries are built on, `checks`
says why a cluster cannot be asked.
"""
