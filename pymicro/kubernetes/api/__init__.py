"""The Kubernetes API as the registries need it: objects, not nodes, and nothing of gRPC.

`client` asks, `credentials` says whom and as whom, `reflector` keeps a copy of a
collection in step, `shared` lets all who ask share one, `access` asks what is
allowed. kubernetes_asyncio gives configuration, credentials and transport and is
imported when something is first asked: it costs 60 MB and 0.4 s. Its model
objects and its `Watch` are not used: a model object takes 0.7 ms to make where
`json.loads` takes 0.05 ms.
"""
