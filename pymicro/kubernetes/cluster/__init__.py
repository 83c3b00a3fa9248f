"""From objects of a cluster to node sets: what the registries kubernetes and endpointslice share.

`watch` is one service's watch, shared by everybody who asks; `neighbours` chooses the watch of the
API that brings its objects, its own or one for many services, and `changeover` goes from one to the
other without a gap. Both registries are built on `registry`; `checks` says why a cluster cannot be
asked.
"""
