"""The Kubernetes API as the registries need it: objects, not nodes, and nothing of gRPC.

`client` asks, `credentials` finds the server and the account, `login` is what a request is
sent with, `reflector` keeps a copy of a collection in step, `reflectors` shares those
copies, `access` asks what is allowed. kubernetes_asyncio gives configuration, credentials
and transport, and is imported when something is first asked: it costs 60 MB and 0.4 s. Its
model objects and its `Watch` are not used: a model object takes 0.7 ms to make, and
`json.loads` takes 0.05 ms.
"""
