"""From objects of a cluster to node sets: what the registries kubernetes and endpointslice share.

`watch` is one service's watch, shared by everybody who asks; both registries are built on
`registry`; `checks` says why a cluster cannot be asked.
"""
