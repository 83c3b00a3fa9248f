"""From objects of a cluster to node sets: what the registries kubernetes and endpointslice share.

`watch` is one service's watch for everybody who asks, `registry` is what both registries
are built on, `checks` says why a cluster cannot be asked.
"""
