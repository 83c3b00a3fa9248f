"""The Kubernetes API as the registries need it: objects, not nodes, and nothing of gRPC.

`client` sends requests, `credentials` finds the server and the account, a `login` holds what
goes with a request, a `reflector` keeps a copy of a collection in step, `split` divides it among
several users, `reflectors` shares those copies, `access` asks what is allowed.
kubernetes_asyncio gives configuration, credentials and transport. It costs 60 MB and 0.4 s, so
the first request imports it. We do not use its model objects and its `Watch`: a model object
takes 0.7 ms to make, and `json.loads` takes 0.05 ms.
"""
