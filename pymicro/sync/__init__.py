"""Calls without `await`: the client for Flask, Django, notebooks and scripts.

    from pymicro.sync import Client

    client = Client()
    stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
    print(stub.SayHello(greeter_pb2.HelloRequest(name="Ada"), timeout=2).message)

`docs/sync.md` has the whole of it.
"""

from __future__ import annotations

from pymicro.sync.calls import SyncCall, SyncStream
from pymicro.sync.channel import SyncChannel
from pymicro.sync.client import SyncClient as Client

__all__ = ["Client", "SyncCall", "SyncChannel", "SyncStream"]
